"""Continuum by hand, on an engine that prefills 10,000 tokens a second."""

import numpy as np
import pytest

from mars_sglang.core.policies.continuum import MAX_SAMPLES, ToolTimes, TurnsLeft
from mars_sglang.core.views import ContextState, ProgramOver, ToolKnown, TurnArrived, TurnStarted
from tests.core.policies.engines import (
    attached,
    context,
    ended,
    pinned,
    reclaim_order,
    running,
    turn_order,
    victim_order,
    waiting,
)


def tool_calls(policy, seconds: list[float], tool: str | None = None, program: str = "teacher"):
    """Calls that end before time 0, so that what they pinned is gone."""
    for i, pause_s in enumerate(seconds):
        policy.observe(ended(program, 100), -1000.0)
        if tool is not None:
            policy.observe(ToolKnown(program, tool), -1000.0)
        policy.observe(TurnArrived(f"{program}-{i}", program, 100, pause_s), -1000.0 + pause_s)
        policy.observe(TurnStarted(f"{program}-{i}", program, 0.0, 0), -1000.0 + pause_s)


def pinned_for_s(policy, context_tokens: int = 20_000, tool: str | None = None, program: str = "p") -> float:
    """Seconds for which a turn that ends now pins its context, to the tenth."""
    policy.observe(ended(program, context_tokens), 0.0)
    if tool is not None:
        policy.observe(ToolKnown(program, tool), 0.0)
    tenths = 0
    while pinned(policy, [context(program)], tenths / 10 + 0.05):
        tenths += 1
    return tenths / 10


# -- the fixed form ----------------------------------------------------------------------------


def test_fixed_pins_for_two_seconds():
    policy = attached("continuum-fixed")
    policy.observe(ended("p", 20_000), 100.0)
    assert pinned(policy, [context("p")], 101.99) == ["p"]
    assert pinned(policy, [context("p")], 102.0) == []


def test_fixed_does_not_pin_through_a_tool_that_takes_longer_on_the_average():
    policy = attached("continuum-fixed")
    tool_calls(policy, [1.0, 3.5], tool="pytest")  # mean 2.25 s
    tool_calls(policy, [0.5, 3.0], tool="ls")  # mean 1.75 s
    assert pinned_for_s(policy, tool="pytest") == 0.0
    assert pinned_for_s(policy, tool="ls") == 2.0
    assert pinned_for_s(policy, tool="never seen") == 2.0
    # All four together: mean 2.0 s, which does not exceed 2 s.
    assert pinned_for_s(policy) == 2.0


# -- the dynamic form --------------------------------------------------------------------------


def test_under_100_samples_the_fixed_time_serves():
    policy = attached("continuum")
    tool_calls(policy, [0.5] * 99)
    assert pinned_for_s(policy) == 2.0


def test_the_ttl_is_the_best_of_the_observed_times():
    # 80 calls of 1 s, 20 of 10 s; a context of 20,000 tokens reloads in 2 s and nothing was preempted: B = 2.
    #   t =  0:  0
    #   t =  1:  .8 x 2 -  1 =  .6   <- best
    #   t = 10: 1.0 x 2 - 10 = -8
    policy = attached("continuum")
    tool_calls(policy, [1.0] * 80 + [10.0] * 20)
    assert pinned_for_s(policy) == 1.0
    # A context of 120,000 tokens, 12 s: t = 1 gives .8 x 12 - 1 = 8.6, t = 10 gives 12 - 10 = 2.
    assert pinned_for_s(policy, context_tokens=120_000) == 1.0
    # 600,000 tokens, 60 s: t = 1 gives 47, t = 10 gives 50.
    assert pinned_for_s(policy, context_tokens=600_000) == 10.0
    # 10,000 tokens, 1 s: t = 1 gives .8 - 1 < 0. Nothing is pinned.
    assert pinned_for_s(policy, context_tokens=10_000) == 0.0


def test_delays_after_preemption_add_to_what_a_pin_is_worth():
    # As above with 10,000 tokens: B = 1 + T_q. With T_q = (0.5 + 1.5) / 2 = 1, t = 1 gives .8 x 2 - 1 = .6.
    policy = attached("continuum")
    tool_calls(policy, [1.0] * 80 + [10.0] * 20)
    policy.observe(TurnStarted("x", "other", 0.5, 1), -500.0)
    policy.observe(TurnStarted("y", "other", 1.5, 2), -500.0)
    policy.observe(TurnStarted("z", "other", 99.0, 0), -500.0)  # never preempted: no delay of that kind
    assert pinned_for_s(policy, context_tokens=10_000) == 1.0


def test_only_the_last_200_delays_count():
    policy = attached("continuum")
    tool_calls(policy, [1.0] * 80 + [10.0] * 20)
    for i in range(300):
        policy.observe(TurnStarted(f"t{i}", "other", 60.0 if i < 100 else 0.0, 1), -500.0)
    assert pinned_for_s(policy, context_tokens=10_000) == 0.0


def test_a_tool_is_looked_at_by_itself_once_it_has_100_samples():
    policy = attached("continuum")
    tool_calls(policy, [1.0] * 100, tool="ls")
    tool_calls(policy, [30.0] * 99, tool="pytest")
    # B = 2 s. Of "ls" all take 1 s: 2 - 1 = 1 > 0. Of all 199 calls 100 do: 1.005 - 1 > 0.
    assert pinned_for_s(policy, tool="ls") == 1.0
    assert pinned_for_s(policy, tool="pytest") == 1.0
    tool_calls(policy, [30.0], tool="pytest")
    # Of "pytest" all 100 take 30 s: 2 - 30 < 0. Without a name it is all 200: .5 x 2 - 1 = 0, no gain.
    assert pinned_for_s(policy, tool="pytest") == 0.0
    assert pinned_for_s(policy) == 0.0


def test_a_name_that_comes_late_moves_the_deadline_and_does_not_start_anew():
    policy = attached("continuum")
    tool_calls(policy, [3.0] * 100, tool="build")
    tool_calls(policy, [1.0] * 300, tool="ls")
    policy.observe(ended("p", 100_000), 0.0)  # B = 10: of all, t = 1 gives 6.5 and t = 3 gives 7
    policy.observe(ToolKnown("p", "ls"), 0.5)  # of "ls", t = 1 gives 9
    assert pinned(policy, [context("p")], 0.9) == ["p"]
    assert pinned(policy, [context("p")], 1.0) == []
    policy.observe(TurnArrived("t", "p", 100_000, 5.0), 5.0)
    policy.observe(ToolKnown("p", "build"), 5.0)  # the call is over
    assert pinned(policy, [context("p", state=ContextState.WAITING)], 5.0) == []


def test_eta_is_one_until_programs_of_different_length_ended():
    left = TurnsLeft()
    assert left.eta() == 1.0
    left.finished(4)
    # (1,3) (2,2) (3,1) (4,0): they lie on a line.
    assert left.eta() == pytest.approx(1.0)
    left.finished(1)
    # and (1,0). n = 5, x: 11, y: 6, xx: 31, yy: 14, xy: 10. r = (5 x 10 - 66) / sqrt(34 x 34) = -16/34.
    assert left.eta() == pytest.approx(16 / 34)


def test_eta_is_the_correlation_over_all_turns_of_ended_programs():
    lengths = [1] * 50 + [10]
    left = TurnsLeft()
    for turns in lengths:
        left.finished(turns)
    pairs = np.array([(i, turns - i) for turns in lengths for i in range(1, turns + 1)])
    # Few long programs among many short ones: who has done much has much left, and eta is below 0.
    assert left.eta() == pytest.approx(-np.corrcoef(pairs.T)[0, 1])
    assert left.eta() < 0


def test_eta_scales_the_delays():
    policy = attached("continuum")
    tool_calls(policy, [1.0] * 80 + [10.0] * 20)
    policy.observe(ProgramOver("teacher"), -500.0)  # 100 turns
    policy.observe(ended("short", 100, last=True), -500.0)  # 1 turn
    policy.observe(TurnStarted("x", "other", 4.0, 1), -500.0)
    left = TurnsLeft()
    left.finished(100)
    left.finished(1)
    assert 0.9 < left.eta() < 0.98
    # Context of no reload to speak of, B = 4 eta: t = 1 gives 3.2 eta - 1 > 0.
    assert pinned_for_s(policy, context_tokens=1) == 1.0


def test_samples_are_the_latest():
    times = ToolTimes()
    for i in range(MAX_SAMPLES + 10):
        times.add(float(i))
    assert len(times) == MAX_SAMPLES
    assert times.mean_s() == 10 + (MAX_SAMPLES - 1) / 2


# -- the life of a pin -------------------------------------------------------------------------


def test_turns_of_pinned_programs_go_first_then_programs_in_order_of_arrival():
    policy = attached("continuum")
    policy.observe(ended("late", 1_000), 100.0)
    policy.observe(ended("later", 1_000), 100.0)
    policy.observe(ended("early", 1_000), 90.0)
    for program in ("early", "late", "later"):
        policy.observe(TurnArrived(program, program, 1_000, 1.0), 101.0)
    turns = [
        waiting("new", "new", 50.0),
        waiting("early", "early", 101.0, program_arrived_s=1.0),
        waiting("later", "later", 101.0, program_arrived_s=3.0),
        waiting("late", "late", 101.0, program_arrived_s=2.0),
    ]
    # Long after: the two that came back within 2 s stay pinned while they wait, "early" was 9 s late.
    assert turn_order(policy, turns, 500.0) == ["late", "later", "early", "new"]


def test_a_pin_ends_when_the_turn_that_it_waited_for_starts():
    policy = attached("continuum")
    policy.observe(ended("p", 1_000), 100.0)
    policy.observe(TurnArrived("t", "p", 1_000, 1.0), 101.0)
    assert pinned(policy, [context("p", state=ContextState.WAITING)], 200.0) == ["p"]
    policy.observe(TurnStarted("t", "p", 99.0, 0), 200.0)
    assert pinned(policy, [context("p")], 200.0) == []


def test_the_last_turn_of_a_program_pins_nothing_and_neither_does_one_that_is_over():
    policy = attached("continuum")
    policy.observe(ended("a", 1_000, last=True), 100.0)
    policy.observe(ended("b", 1_000), 100.0)
    policy.observe(ProgramOver("b"), 100.5)
    assert pinned(policy, [context("a"), context("b")], 101.0) == []


def test_pins_may_be_reclaimed_once_at_most_one_turn_runs_and_then_latest_expiry_first():
    policy = attached("continuum")
    policy.observe(ended("first", 1_000), 100.0)
    policy.observe(ended("second", 1_000), 101.0)
    contexts = [context("first"), context("unpinned", idle_s=0.1), context("second"), context("old", idle_s=9.0)]
    assert pinned(policy, contexts, 101.5, turns_running=2) == ["first", "second"]
    assert pinned(policy, contexts, 101.5, turns_running=1) == []
    assert reclaim_order(policy, contexts, 101.5) == ["old", "unpinned", "second", "first"]


def test_the_victim_is_of_the_program_that_came_last():
    turns = [
        running("old", "a", program_arrived_s=1.0, output_tokens=5),
        running("new", "b", program_arrived_s=3.0, output_tokens=500),
        running("middle", "c", program_arrived_s=2.0),
    ]
    assert victim_order(attached("continuum"), turns) == ["new", "middle", "old"]
