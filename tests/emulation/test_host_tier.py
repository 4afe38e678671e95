"""The stand-ins for CUDA's copies between the two tiers: what went to the host comes back as it was."""

import pytest
import torch

pytest.importorskip("sglang")

from mars_sglang.emulation.host_tier import _copy_layer_from_pages, _copy_to_pages

LAYERS, PAGES, PAGE_SIZE, HEADS, DIM = 3, 4, 2, 1, 2


def test_tokens_come_back_from_host_pages_to_other_places_layer_by_layer():
    device = [torch.rand(PAGES * PAGE_SIZE, HEADS, DIM) for _ in range(2 * LAYERS)]
    host = [torch.zeros(PAGES, LAYERS, PAGE_SIZE, HEADS, DIM) for _ in range(2)]
    # Two whole pages, to the third and the first of the host.
    taken, held = torch.tensor([2, 3, 6, 7]), torch.tensor([4, 5, 0, 1])
    _copy_to_pages(device, host, taken, held, PAGE_SIZE)
    assert torch.equal(host[0][2, 1, 0], device[1][2]) and torch.equal(host[1][0, 2, 1], device[LAYERS + 2][7])
    back = torch.tensor([0, 1, 4, 5])
    for layer in range(LAYERS):
        keys, values = torch.zeros_like(device[0]), torch.zeros_like(device[0])
        _copy_layer_from_pages(host, [keys, values], held, back, layer, PAGE_SIZE)
        assert torch.equal(keys[back], device[layer][taken])
        assert torch.equal(values[back], device[LAYERS + layer][taken])
