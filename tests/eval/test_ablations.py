"""Each ablation is the whole in everything but what its name says."""

import pytest

from eval.ablations import ADMISSION_ABLATIONS, TURN_ABLATIONS
from eval.replay.arrivals import Arrivals
from eval.setup import Setup
from mars_sglang.core.admission.footprint import FootprintAdmission
from mars_sglang.core.policies.mars import MarsTurnPolicy
from mars_sglang.core.policy import BaseTurnPolicy, admission_policy_names, turn_policy_names
from mars_sglang.core.views import EngineFacts, PoolView, TurnView
from tests.core.admission.programs import in_tool, new, working
from tests.eval.simulator.builders import program, run

METHODS = ("order_turns", "may_be_passed", "order_reclaim", "order_victims")
OWN_METHODS = {
    "mars-no-passing": "may_be_passed",
    "mars-no-retention": "order_reclaim",
    "mars-no-victims": "order_victims",
}


@pytest.mark.parametrize(("name", "method"), OWN_METHODS.items())
def test_a_turn_ablation_differs_from_the_whole_in_one_method_which_is_sglangs(name, method):
    kind = TURN_ABLATIONS[name]
    assert [m for m in METHODS if getattr(kind, m) is not getattr(MarsTurnPolicy, m)] == [method]
    assert getattr(kind, method) is getattr(BaseTurnPolicy, method)


def test_without_order_turns_and_contexts_stand_where_their_programs_came():
    policy = TURN_ABLATIONS["mars-no-order"]()
    policy.attach(EngineFacts(100_000, 8192, lambda extend, prefix: extend / 10_000))
    long_first = TurnView("t1", "a", 90_000, 90_000, 5.0, program_arrived_s=1.0)
    short_later = TurnView("t2", "b", 10, 10, 3.0, program_arrived_s=2.0)
    assert policy.order_turns([short_later, long_first], 9.0) == [1, 0]
    assert [policy.rank(turn, 9.0) for turn in (long_first, short_later)] == [(0, 1.0), (0, 2.0)]


def test_without_keeping_no_turn_has_to_leave_a_context_alone():
    assert not TURN_ABLATIONS["mars-no-keep"].keeps_kv
    assert {*OWN_METHODS, "mars-no-order", "mars-no-keep"} == {*TURN_ABLATIONS}


def decided(name, inside, waiting, capacity=1000, now_s=0.0):
    return ADMISSION_ABLATIONS[name]().decide(inside, waiting, PoolView(capacity, 0), now_s)


def test_without_growth_only_what_is_held_now_counts():
    # 400 + 500 < .95 x 1000; with 2 x 600 each for their growth they would not fit.
    inside, waiting = [working("a", 400)], [new("b", 500)]
    assert decided("mars-no-growth", inside, waiting).admit == ("b",)
    assert FootprintAdmission().decide(inside, waiting, PoolView(1000, 0), 0.0).admit == ()


def test_without_pausing_an_overfull_pool_pauses_nobody():
    inside = [in_tool("a", 800), in_tool("b", 800)]
    assert decided("mars-no-pause", inside, []).pause == ()
    assert FootprintAdmission().decide(inside, [], PoolView(1000, 0), 0.0).pause == ("a", "b")


def test_without_dormancy_half_a_minute_of_silence_is_no_end():
    inside, waiting = [in_tool("a", 600, idle_since_s=0.0)], [new("b", 500)]
    assert decided("mars-no-dormancy", inside, waiting, 2400, 60.0).admit == ()
    assert decided("mars-no-dormancy", inside, waiting, 2400, 601.0).admit == ("b",)
    assert FootprintAdmission().decide(inside, waiting, PoolView(2400, 0), 601.0).admit == ("b",)


@pytest.mark.parametrize("turn", TURN_ABLATIONS)
def test_they_run_in_the_simulator_and_no_server_offers_them(turn):
    result = run([program(id, (200, 5, 1.0), (220, 5)) for id in "abc"], Setup(turn, "mars"), arrivals=Arrivals(1.0))
    assert all(record.completed for record in result.result.programs)
    assert not {turn, *ADMISSION_ABLATIONS} & {*turn_policy_names(), *admission_policy_names()}
