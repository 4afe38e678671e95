"""On random workloads no policy gets below the bound, and the clairvoyant policies run to the end."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval.bounds import clairvoyant, lower_bound
from eval.replay.arrivals import Arrivals
from eval.setup import Setup
from eval.simulator import simulate
from eval.workload import draw, load
from mars_sglang.core.cost_model import CostModel
from mars_sglang.emulation.profiles import load_profile
from tests.eval.builders import program, turn

PROFILES = {name: load_profile(name) for name in ("a100-40g-llama-3.1-8b", "h100-qwen3-coder-30b")}
SETUPS = (
    Setup("fcfs"),
    Setup("lpm"),
    Setup("shortest-prefill-first"),
    Setup("mars", "mars"),
    Setup("shortest-prefill-first", host_ratio=4.0),
)


@st.composite
def programs(draw):
    """Up to eight programs whose contexts are large enough to compete for the pool."""
    made = []
    for index in range(draw(st.integers(1, 8))):
        head = draw(st.sampled_from([0, 0, 3000]))
        context = head + draw(st.integers(1, 60_000))
        turns = []
        for _ in range(draw(st.integers(1, 5))):
            tool, tool_s = draw(st.sampled_from([("ls", 0.0), ("ls", 3.0), ("human", 40.0), ("ls", 100.0)]))
            reuse = draw(st.sampled_from([None, None, None, context // 2]))
            out = draw(st.integers(1, 400))
            turns.append(turn(context, out, reuse_tokens=reuse if turns else None, tool=tool, tool_s=tool_s))
            context = max(head + 1, min(100_000, context + out + draw(st.integers(-2000, 8000))))
        made.append(program(*turns, id=f"p{index}", tool_tokens=head // 2, system_tokens=head - head // 2))
    return made


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    work=programs(),
    rate=st.sampled_from([None, 0.05, 1.0]),
    slots=st.sampled_from([None, 1, 4]),
    setup=st.sampled_from(SETUPS),
    seed=st.integers(0, 3),
)
def test_no_policy_beats_the_bound(profile, work, rate, slots, setup, seed):
    arrivals = Arrivals(rate=rate)
    bound = lower_bound(
        work, arrivals.times(len(work), seed), profile, slots, 60.0, host_tier=bool(setup.host_ratio)
    ).mean_s
    run = {"seed": seed, "tool_slots": slots, "max_pause_s": 60.0}
    assert _mean_s(simulate(work, arrivals, setup, profile, **run)) >= bound * (1 - 1e-6)
    turns, admission = clairvoyant(work, profile, 60.0)
    known = simulate(work, arrivals, setup, profile, turn_policy=turns, admission_policy=admission, **run)
    assert _mean_s(known) >= bound * (1 - 1e-6)


@pytest.mark.parametrize(
    ("workload", "profile", "rate"),
    [("swebench", "l40s-llama-3.1-8b", 0.2), ("ilr-4:60", "h100-qwen3-coder-30b", 0.5)],
)
def test_knowing_the_future_is_worth_something_under_load_and_the_bound_is_near(workload, profile, rate):
    chosen = load_profile(profile)
    capacity = CostModel(chosen).kv_capacity_tokens
    cut = [p.cut(30) for p in load(workload, 11)]
    work = draw(cut, 40, 11, lambda p: "too long" if p.largest_context > capacity - 6 else None).programs
    arrivals = Arrivals(rate=rate)
    run = {"seed": 11, "tool_slots": 16, "max_pause_s": 60.0}
    turns, admission = clairvoyant(work, chosen, 60.0)
    known = simulate(
        work, arrivals, Setup("mars", "mars"), chosen, turn_policy=turns, admission_policy=admission, **run
    )
    plain = simulate(work, arrivals, Setup("lpm"), chosen, **run)
    bound = lower_bound(work, arrivals.times(len(work), 11), chosen, 16, 60.0, host_tier=False)
    assert bound.mean_s < _mean_s(known) < 0.8 * _mean_s(plain)
    assert _mean_s(known) < 3 * bound.mean_s


def _mean_s(simulated):
    assert all(record.completed for record in simulated.result.programs)
    return np.mean([record.makespan_s for record in simulated.result.programs])
