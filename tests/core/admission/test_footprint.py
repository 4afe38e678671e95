"""Admission by footprint, by hand: what a program holds, and 2 x 600 tokens of growth until turns were seen."""

import pytest

from mars_sglang.core.admission.footprint import (
    FILL,
    GROWTH_WEIGHT,
    INITIAL_GROWTH_TOKENS,
    LOOKAHEAD_TURNS,
    FootprintAdmission,
)
from mars_sglang.core.admission.passed_over import MAX_PASSED_OVER
from mars_sglang.core.views import PoolView, TurnOutcome
from tests.core.admission.programs import in_tool, new, returned, working

#: By when a silence since the first seconds has been too long by any measure.
LATE_S = 100_000.0
#: What is reserved for growth.
AHEAD = 1200


def decide(admitted, waits, capacity=10_000, anonymous=0, policy=None, now_s=LATE_S):
    return (policy or FootprintAdmission()).decide(admitted, waits, PoolView(capacity, anonymous), now_s)


def ended(grown_tokens: int | None) -> TurnOutcome:
    return TurnOutcome("t", 1000, 0, 0, 50, grown_tokens, 0.0)


def test_a_footprint_is_what_a_program_holds_and_growth_for_two_turns():
    policy = FootprintAdmission()
    assert LOOKAHEAD_TURNS * INITIAL_GROWTH_TOKENS == AHEAD
    assert policy.footprint_tokens(new("a", 3000)) == 4200
    # The mean moves by .02 of the difference: 600 + .02 x (1600 - 600) = 620, and 3000 + 2 x 620 = 4240.
    policy.observe_turn(ended(1600), 0.0)
    assert GROWTH_WEIGHT == 0.02 and policy.footprint_tokens(new("a", 3000)) == 4240
    # A first turn tells no growth.
    policy.observe_turn(ended(None), 0.0)
    assert policy.footprint_tokens(new("a", 3000)) == 4240


def test_programs_are_admitted_in_order_of_arrival_while_they_fit():
    # Footprints of 4000: two fill 8000 of .95 x 10,000.
    decision = decide([], [new("c", 2800, 3.0), new("a", 2800, 1.0), new("b", 2800, 2.0)])
    assert decision.admit == ("a", "b") and FILL * 10_000 == 9_500


def test_a_smaller_program_may_pass_one_that_does_not_fit_but_not_for_ever():
    # 6000 are inside: 5000 do not fit under 9500, and 3000 do.
    inside, big = [working("x", 4800)], new("big", 3800, 1.0)
    policy = FootprintAdmission()
    for i in range(MAX_PASSED_OVER):
        small = new(f"small-{i}", 1800, 2.0 + i)
        assert decide(inside, [big, small], policy=policy).admit == (f"small-{i}",)
    assert decide(inside, [big, new("late", 1800, 99.0)], policy=policy).admit == ()
    # Once it is inside, or gone, others pass again.
    assert decide(inside, [new("other", 3800, 1.5), new("late", 1800, 99.0)], policy=policy).admit == ("late",)


def test_who_waits_behind_four_that_do_not_fit_is_not_looked_at():
    inside, big = [working("x", 4800)], [new(f"big-{i}", 3800, float(i)) for i in range(4)]
    small = new("small", 1800, 9.0)
    assert decide(inside, [*big[:3], small]).admit == ("small",)
    assert decide(inside, [*big, small]).admit == ()


def test_growth_over_the_pool_pauses_the_latest_program_inside_a_tool_and_never_a_running_one():
    # 5000 + 4000 + 4000 > 10,000; without the later of the two inside a tool 9000.
    inside = [working("running", 3800, 9.0), in_tool("late", 2800, 3.0), in_tool("early", 2800, 1.0)]
    assert decide(inside, []).pause == ("late",)
    assert decide([working("running", 50_000)], []).pause == ()


def test_a_silent_program_gives_its_place_to_one_that_waits_but_keeps_it_while_none_does():
    silent = in_tool("silent", 7800, idle_since_s=0.0)
    assert decide([silent], []).pause == ()
    decision = decide([silent], [new("new", 3800)])
    assert (decision.pause, decision.admit) == (("silent",), ("new",))
    assert decide([in_tool("acting", 7800)], [new("new", 3800)]).admit == ()


def test_silence_is_measured_against_the_pauses_seen():
    policy = FootprintAdmission()
    for i in range(256):
        policy.observe_pause(in_tool("any", 1), 4.0 + (i % 100) / 100)
    silent = in_tool("silent", 7800, idle_since_s=100.0)
    assert decide([silent], [new("new", 3800)], policy=policy, now_s=103.9).pause == ()
    assert decide([silent], [new("new", 3800)], policy=policy, now_s=106.0).pause == ("silent",)


def test_a_program_larger_than_the_pool_gets_in_when_nobody_is_inside():
    assert decide([], [new("huge", 50_000)]).admit == ("huge",)
    assert decide([working("x", 100)], [new("huge", 50_000)]).admit == ()


def test_the_load_of_requests_without_an_id_counts():
    # 3000 and 4000 leave 2500 under 9500.
    assert decide([], [new("a", 2800), new("b", 2800)], anonymous=3000).admit == ("a",)


@pytest.mark.parametrize("arrived_s", [0.0, 5.0])
def test_a_program_that_was_paused_resumes_by_its_first_arrival(arrived_s):
    # One of the two fits beside 4000.
    waits = [new("new", 2800, 3.0), returned("back", 2800, arrived_s, waiting_since_s=90.0)]
    assert decide([working("x", 2800)], waits).admit == (("back",) if arrived_s < 3.0 else ("new",))
