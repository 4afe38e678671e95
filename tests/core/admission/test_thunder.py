"""ThunderAgent's marks, by hand: a pool of 1000 tokens, so paused above 950 and resumed up to 800."""

from mars_sglang.core.admission.thunder import RESUME_AFTER_S, TICK_S, ThunderAdmission
from mars_sglang.core.views import PoolView
from tests.core.admission.programs import in_tool, new, returned, working

POOL = PoolView(1000, 0)


def ticked(admitted=(), waiting=()) -> ThunderAdmission:
    """A policy whose last tick was at 0."""
    policy = ThunderAdmission()
    policy.decide(list(admitted), list(waiting), POOL, 0.0)
    return policy


def test_above_the_upper_mark_the_smallest_inside_a_tool_go_until_it_is_kept():
    # 300 + 250 + 150 + 350 = 1050 > 950. The smallest inside a tool is c: 1050 - 150 = 900 <= 950, enough.
    inside = [in_tool("a", 300), in_tool("b", 250), in_tool("c", 150), working("d", 350)]
    assert ThunderAdmission().decide(inside, [], POOL, 0.0).pause == ("c",)
    # 100 anonymous tokens more: 1150 - 150 = 1000 > 950, so b too: 750.
    assert ThunderAdmission().decide(inside, [], PoolView(1000, 100), 0.0).pause == ("c", "b")


def test_with_nobody_inside_a_tool_the_smallest_at_work_pauses_when_its_turn_ends():
    # 600 + 500 = 1100 > 950: b is marked, which will leave 600.
    policy = ThunderAdmission()
    assert policy.decide([working("a", 600), working("b", 500)], [], POOL, 0.0).pause == ()
    # Its turn ends between two ticks, and so does that of a, which has no mark.
    assert policy.decide([in_tool("a", 600), in_tool("b", 520)], [], POOL, 1.0).pause == ("b",)
    assert policy.decide([in_tool("a", 600)], [], POOL, 2.0).pause == ()


def test_a_tick_resumes_continuations_then_new_programs_smallest_first_while_they_fit():
    # 300 inside leave 500 under the lower mark. Continuations: c 100 (400), a 350 (750). Then new ones: b 60 would
    # make 810 > 800 and is skipped, d 50 makes 800. The largest of the chosen starts first.
    inside = [working("x", 300)]
    waiting = [returned("a", 350), returned("c", 100), new("b", 60), new("d", 50), new("e", 700)]
    policy = ticked(inside)
    assert policy.decide(inside, waiting, POOL, TICK_S).admit == ("a", "c", "d")


def test_a_program_paused_in_a_tick_leaves_its_place_to_nobody_above_the_lower_mark():
    # 500 + 480 = 980 > 950: b goes, 500 are left, c resumes to 780. d would make 810.
    inside = [working("a", 500), in_tool("b", 480)]
    policy = ticked()
    decision = policy.decide(inside, [returned("c", 280), returned("d", 310)], POOL, TICK_S)
    assert (decision.pause, decision.admit) == (("b",), ("c",))


def test_between_ticks_new_programs_start_up_to_the_upper_mark_and_nobody_resumes():
    inside = [working("x", 500)]
    # 500 + 400 = 900 <= 950; b would make 960.
    arrivals = [new("a", 400, arrived_s=1.0), new("b", 60, arrived_s=1.1)]
    assert ticked(inside).decide(inside, arrivals, POOL, 1.2).admit == ("a",)
    assert ticked(inside).decide(inside, [returned("c", 10)], POOL, 1.2).admit == ()
    # One that came later waits behind who did not fit, however small; the tick takes both orders by size.
    policy = ticked(inside)
    assert policy.decide(inside, [new("big", 480, 1.0)], POOL, 1.0).admit == ()
    both = [new("big", 480, 1.0), new("small", 10, 1.5)]
    assert policy.decide(inside, both, POOL, 1.5).admit == ()
    assert policy.decide(inside, both, POOL, TICK_S).admit == ("small",)


def test_who_waits_already_starts_in_a_tick_although_there_is_room_before_it():
    policy = ticked([working("x", 500)])
    big, small = new("big", 480, 1.0), new("small", 10, 2.0)
    assert policy.decide([working("x", 500)], [big], POOL, 1.0).admit == ()
    assert policy.decide([working("y", 100)], [big, small], POOL, 2.0).admit == ()
    assert policy.decide([working("y", 100)], [big, small], POOL, TICK_S).admit == ("big", "small")


def test_below_the_upper_mark_nobody_is_paused_and_above_it_not_before_the_tick():
    inside = [in_tool("a", 500), in_tool("b", 450)]
    assert ThunderAdmission().decide(inside, [], POOL, 0.0).pause == ()
    over = [in_tool("a", 500), in_tool("b", 451)]
    policy = ticked(inside)
    assert policy.decide(over, [], POOL, TICK_S - 0.1).pause == ()
    assert policy.decide(over, [], POOL, TICK_S).pause == ("b",)


def test_who_waited_half_an_hour_starts_without_room():
    inside = [working("x", 900)]
    policy = ticked(inside)
    late = returned("a", 700, waiting_since_s=10.0)
    assert policy.decide(inside, [late], POOL, 10.0 + RESUME_AFTER_S - 1).admit == ()
    assert policy.decide(inside, [late], POOL, 10.0 + RESUME_AFTER_S).admit == ("a",)


def test_with_nobody_inside_one_starts_that_will_never_fit():
    assert ticked().decide([], [new("huge", 5000)], POOL, 1.0).admit == ("huge",)
