"""Admission by footprint, by hand."""

from mars_sglang.core.admission.dormancy import DORMANT_MAX_S
from mars_sglang.core.admission.footprint import FILL, MAX_PASSED_OVER, FootprintAdmission
from mars_sglang.core.views import PoolView, ProgramView


def view(program, tokens, arrived_s=0.0, in_flight=0, idle_s=0.0, passed_over=0, waits=False):
    return ProgramView(program, arrived_s, 1.0 if waits else None, in_flight, tokens, idle_s, 3, passed_over)


def waiting(program, tokens, arrived_s=0.0, passed_over=0):
    return view(program, tokens, arrived_s, passed_over=passed_over, waits=True)


def decide(admitted, waits, capacity=10_000, anonymous=0, policy=None):
    return (policy or FootprintAdmission()).decide(admitted, waits, PoolView(capacity, anonymous), now_s=0.0)


def test_programs_are_admitted_in_order_of_arrival_while_they_fit():
    decision = decide([], [waiting("c", 4000, 3.0), waiting("a", 4000, 1.0), waiting("b", 4000, 2.0)])
    assert decision.admit == ("a", "b") and FILL * 10_000 == 9_500


def test_a_smaller_program_may_pass_one_that_does_not_fit_but_not_for_ever():
    inside = [view("x", 6000, in_flight=1)]
    assert decide(inside, [waiting("big", 5000, 1.0), waiting("small", 3000, 2.0)]).admit == ("small",)
    aged = waiting("big", 5000, 1.0, passed_over=MAX_PASSED_OVER)
    assert decide(inside, [aged, waiting("small", 3000, 2.0)]).admit == ()


def test_growth_over_the_pool_pauses_the_latest_program_inside_a_tool_and_never_a_running_one():
    inside = [
        view("running", 5000, arrived_s=9.0, in_flight=1),
        view("late", 4000, arrived_s=3.0, idle_s=0.5),
        view("early", 4000, arrived_s=1.0, idle_s=0.5),
    ]
    assert decide(inside, []).pause == ("late",)
    assert decide([view("running", 50_000, in_flight=1)], []).pause == ()


def test_a_silent_program_gives_its_place_to_one_that_waits_but_keeps_it_while_none_does():
    silent = view("silent", 9000, idle_s=DORMANT_MAX_S + 1)
    assert decide([silent], []).pause == ()
    decision = decide([silent], [waiting("new", 5000)])
    assert (decision.pause, decision.admit) == (("silent",), ("new",))


def test_silence_is_measured_against_the_pauses_seen():
    policy = FootprintAdmission()
    for i in range(256):
        policy.observe_pause(4.0 + (i % 100) / 100)
    assert 4.9 < policy.dormant_s < 5.0
    decision = decide([view("silent", 9000, idle_s=6.0)], [waiting("new", 5000)], policy=policy)
    assert decision.pause == ("silent",)


def test_a_program_larger_than_the_pool_gets_in_when_nobody_is_inside():
    assert decide([], [waiting("huge", 50_000)]).admit == ("huge",)
    assert decide([view("x", 100, in_flight=1)], [waiting("huge", 50_000)]).admit == ()


def test_the_load_of_requests_without_an_id_counts():
    assert decide([], [waiting("a", 4000), waiting("b", 4000)], anonymous=3000).admit == ("a",)
