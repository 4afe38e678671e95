import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.simulator.decode import decode_s, steps_until
from mars_sglang.core.cost_model import CostModel
from mars_sglang.emulation.profiles import load_profile

COSTS = [CostModel(load_profile(name)) for name in ("l40s-llama-3.1-8b", "h200-qwen3-coder-30b")]


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(COSTS), st.integers(1, 400), st.integers(1, 10**6), st.integers(1, 700))
def test_a_run_takes_as_long_as_its_steps(cost, rows, context, steps):
    alone = sum(cost.decode_step_s(rows, context + step * rows) for step in range(steps))
    assert decode_s(cost, rows, context, steps) == pytest.approx(alone, rel=1e-7)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(COSTS), st.integers(1, 400), st.integers(1, 10**6), st.integers(1, 700), st.floats(0, 10))
def test_a_run_ends_with_the_first_step_at_or_after_the_event(cost, rows, context, steps, seconds):
    taken = steps_until(cost, rows, context, steps, seconds)
    assert 1 <= taken <= steps
    if taken < steps:
        assert decode_s(cost, rows, context, taken) >= seconds
    if taken > 1:
        assert decode_s(cost, rows, context, taken - 1) <= seconds
