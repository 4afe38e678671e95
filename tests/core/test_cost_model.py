"""Numbers worked out by hand for a model and a GPU with round figures, and the laws of any."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars_sglang.core.cost_model import CostModel, Gpu, ModelShape, Profile, ProfileError, profile_from_mapping

DENSE = ModelShape(
    name="dense",
    layers=10,
    hidden=100,
    heads=10,
    kv_heads=5,
    head_dim=10,
    vocab=1000,
    context_tokens=4096,
    total_params=1_100_000,  # 100,000 of them the embedding
    active_params=1_100_000,
)
MIXTURE = replace(
    DENSE,
    name="mixture",
    experts=4,
    experts_per_token=1,
    expert_hidden=20,  # 3 * 100 * 20 * 10 layers = 60,000 per expert, 240,000 for all
    active_params=920_000,
)
GPU = Gpu(
    name="round",
    memory_bytes=10_000_000,
    bandwidth_bytes_per_s=2e6,
    peak_flop_per_s=2e9,
    matmul_efficiency=0.5,
    attention_efficiency=0.25,
    bandwidth_efficiency=0.5,
    step_overhead_s=0.125,
    host_link_bytes_per_s=1e6,
)


def cost_of(model=DENSE, gpu=GPU, memory_fraction=0.5, **rest) -> CostModel:
    return CostModel(Profile(name="p", description="", model=model, gpu=gpu, memory_fraction=memory_fraction, **rest))


def test_kv_bytes_per_token_count_keys_and_values_of_every_layer():
    assert DENSE.kv_bytes_per_token == 2 * 10 * 5 * 10 * 2 == 2000


def test_capacity_is_what_the_weights_and_the_reserve_leave():
    # 5,000,000 of the memory, 2,200,000 for weights, 2,000 a token
    assert cost_of().kv_capacity_tokens == 1400
    assert cost_of(activation_reserve_bytes=800_000).kv_capacity_tokens == 1000


def test_small_decode_is_bound_by_reading_weights_and_kv():
    # 2,000,000 bytes of weights and 300 * 2,000 bytes of KV at 1e6 a second
    assert cost_of().decode_step_s(batch=2, context_tokens_total=300) == pytest.approx(2.0 + 0.6 + 0.125)


def test_prefill_is_bound_by_arithmetic():
    # 10,000 tokens * 2 * 1e6 FLOP at 1e9 a second; attention 4 * 10 * 10 * 10 = 4,000 FLOP a position at 5e8
    positions = 10_000 * (2_000 + 5_000)
    expected = 20.0 + positions * 4_000 / 5e8 + 0.125
    assert cost_of().prefill_s(10_000, 2_000) == pytest.approx(expected)


def test_experts_are_read_as_far_as_the_batch_touches_them():
    cost = cost_of(MIXTURE)
    always = (1_100_000 - 100_000 - 240_000) * 2 / 1e6
    touched = 4 * (1 - (3 / 4) ** 3)
    assert cost.decode_step_s(3, 0) == pytest.approx(always + touched * 60_000 * 2 / 1e6 + 0.125)


def test_decoding_row_costs_what_an_extension_by_one_token_reads():
    gpu = replace(GPU, peak_flop_per_s=1e15)  # memory decides
    cost = cost_of(gpu=gpu)
    assert cost.step_s([(1, 99)]) == pytest.approx(cost.step_s((), 1, 100))


def test_host_transfer_is_bytes_over_the_link():
    assert cost_of().host_transfer_s(500) == pytest.approx(1.0)


def test_empty_batch_costs_nothing():
    assert cost_of().step_s() == 0.0


rows = st.lists(st.tuples(st.integers(1, 4096), st.integers(0, 4096)), max_size=8)
models = st.sampled_from([cost_of(), cost_of(MIXTURE)])


@given(models, rows, st.integers(0, 64), st.integers(0, 4096), st.integers(1, 4096), st.integers(0, 4096))
def test_more_work_never_takes_less_time(cost, extend, batch, context, more, prefix):
    base = cost.step_s(extend, batch, batch * context)
    assert cost.step_s([*extend, (more, prefix)], batch, batch * context) >= base
    assert cost.step_s(extend, batch + 1, (batch + 1) * context) >= base
    assert cost.step_s(extend, batch, batch * context + more) >= base or not (extend or batch)


@given(models, rows, st.integers(0, 64), st.integers(0, 4096))
def test_one_mixed_step_takes_no_longer_than_two_apart(cost, extend, batch, context):
    apart = cost.step_s(extend) + cost.step_s((), batch, batch * context)
    assert cost.step_s(extend, batch, batch * context) <= apart * (1 + 1e-9)


@given(models, rows, st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(cost, extend, random):
    shuffled = list(extend)
    random.shuffle(shuffled)
    assert cost.step_s(shuffled) == pytest.approx(cost.step_s(extend), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: replace(DENSE, layers=0), "ModelShape.layers is 0; accepted: a whole number"),
        (lambda: replace(DENSE, active_params=2e6), "ModelShape.active_params"),
        (lambda: replace(MIXTURE, experts_per_token=5), "experts_per_token is 5; accepted: 1 to experts"),
        (lambda: replace(MIXTURE, total_params=300_000, active_params=300_000), "ModelShape.total_params"),
        (lambda: replace(GPU, matmul_efficiency=1.5), "Gpu.matmul_efficiency is 1.5; accepted: a share"),
        (lambda: replace(GPU, step_overhead_s=-1), "Gpu.step_overhead_s is -1; accepted: seconds"),
        (lambda: replace(GPU, memory_bytes="80"), "Gpu.memory_bytes is '80'"),
        (lambda: cost_of(memory_fraction=0.01), "Gpu.memory_bytes is 10000000; accepted: more than the weights"),
        (lambda: profile_from_mapping({"model": {}, "gpu": {}}), "ModelShape: "),
        (lambda: profile_from_mapping({"model": {"layer": 3}, "gpu": {}}), "ModelShape.layer is not a field"),
        (lambda: profile_from_mapping({"gpu": {}}), "Profile.model is None; accepted: a table"),
    ],
)
def test_impossible_figures_are_refused_by_name(change, message):
    with pytest.raises(ProfileError, match=re.escape(message)):
        change()
