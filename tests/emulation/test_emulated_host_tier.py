"""HiCache on the emulated GPU: what was evicted comes back from host memory, in the time of the link."""

import pytest

from mars_sglang.core.cost_model import CostModel
from mars_sglang.emulation.profiles import load_profile
from tests.emulation.running_server import PROFILE, running_server, text_of

pytestmark = pytest.mark.server

POOL_TOKENS = 8000
PROMPT_TOKENS = 3000


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    flags = [
        "--max-total-tokens", str(POOL_TOKENS),
        "--enable-hierarchical-cache",
        "--hicache-ratio", "4",
        "--hicache-io-backend", "direct",
        "--hicache-mem-layout", "layer_first",
    ]  # fmt: skip
    with running_server(tmp_path_factory.mktemp("server"), *flags) as server:
        yield server


def generate(server, word: str) -> dict:
    params = {"max_new_tokens": 4, "ignore_eos": True}
    return server.post("/generate", text=text_of(word, PROMPT_TOKENS), sampling_params=params)["meta_info"]


def test_evicted_prefix_comes_back_from_the_host_and_its_load_takes_time(server):
    # Twice each: the second use is what makes SGLang copy a prefix to the host.
    for word in ("one", "two", "three", "four", "five"):
        generate(server, word)
        generate(server, word)
    before = server.emulation()["prefill"]
    again = generate(server, "one")
    assert again["cached_tokens_details"]["host"] > PROMPT_TOKENS / 2
    prefill = server.emulation()["prefill"]
    took_s = prefill["intended_s"] - before["intended_s"]
    load_s = CostModel(load_profile(PROFILE)).host_transfer_s(again["cached_tokens_details"]["host"])
    assert prefill["steps"] == before["steps"] + 1
    # The report is rounded to a millisecond, twice.
    assert took_s >= load_s - 0.001
