"""InferCept by hand, on an engine that prefills 10,000 tokens a second."""

import pytest

from mars_sglang.core.views import ContextState, ProgramOver, TurnArrived, TurnStarted
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


def test_a_context_is_held_until_holding_wastes_as_much_as_recomputing():
    # C = 20,000, C_other = 60,000: T_fwd = 2 s, 2 x 80,000 / 40,000 = 4 s.
    # Waste of holding then: 4 s x 20,000 = 80,000 token s; of discarding: 2 s x 80,000 / 2 = 80,000 token s.
    policy = attached("infercept")
    assert policy.hold_s(20_000, 60_000) == pytest.approx(4.0)
    policy.observe(ended("p", 20_000, output_tokens=500, other_tokens=60_000), 100.0)
    assert pinned(policy, [context("p")], 103.9) == ["p"]
    assert pinned(policy, [context("p")], 104.1) == []


def test_alone_a_context_is_held_for_half_of_its_prefill():
    assert attached("infercept").hold_s(20_000, 0) == pytest.approx(1.0)
    assert attached("infercept").hold_s(0, 50_000) == 0.0


def test_a_call_that_comes_back_in_time_is_held_until_it_starts():
    policy = attached("infercept")
    policy.observe(ended("p", 20_000, other_tokens=60_000), 100.0)
    policy.observe(TurnArrived("t", "p", 20_100, 3.0), 103.0)
    assert pinned(policy, [context("p", state=ContextState.WAITING)], 160.0) == ["p"]
    policy.observe(TurnStarted("t", "p", 57.0, 0), 160.0)
    assert pinned(policy, [context("p", state=ContextState.WAITING)], 160.0) == []


def test_the_end_of_a_program_is_no_tool_call():
    policy = attached("infercept")
    policy.observe(ended("a", 20_000, last=True), 100.0)
    policy.observe(ended("b", 20_000), 100.0)
    policy.observe(ProgramOver("b"), 100.0)
    assert pinned(policy, [context("a"), context("b")], 100.1) == []


def test_what_was_discarded_goes_before_what_is_held():
    policy = attached("infercept")
    policy.observe(ended("held", 20_000, other_tokens=60_000), 100.0)
    policy.observe(ended("held-too", 20_000, other_tokens=60_000), 100.0)
    policy.observe(ended("discarded", 20_000), 99.0)
    contexts = [
        context("held", program_arrived_s=1.0),
        context("held-too", program_arrived_s=2.0),
        context("discarded", idle_s=2.0),
        context("unknown", idle_s=50.0),
    ]
    assert reclaim_order(policy, contexts, 101.0) == ["unknown", "discarded", "held-too", "held"]
    assert pinned(policy, contexts, 101.0, turns_running=1) == []


def test_a_call_that_comes_back_keeps_the_place_of_its_program():
    turns = [waiting("new", "b", 10.0), waiting("back", "a", 20.0, program_arrived_s=1.0)]
    assert turn_order(attached("infercept"), turns, 30.0) == ["back", "new"]


def test_what_was_held_goes_on_before_those_that_queue():
    policy = attached("infercept")
    policy.observe(ended("late", 20_000, other_tokens=60_000), 100.0)
    policy.observe(TurnArrived("held", "late", 20_100, 3.0), 103.0)
    turns = [waiting("early", "early", 50.0), waiting("held", "late", 103.0, program_arrived_s=90.0)]
    assert turn_order(policy, turns, 150.0) == ["held", "early"]


def test_the_victim_is_of_the_program_that_came_last():
    turns = [running("old", "a", program_arrived_s=1.0), running("new", "b", program_arrived_s=3.0)]
    assert victim_order(attached("infercept"), turns) == ["new", "old"]
