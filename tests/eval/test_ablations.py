"""Each ablation is the whole in everything but what its name says."""

import pytest

from eval.ablations import ADMISSION_ABLATIONS, TURN_ABLATIONS
from eval.replay.arrivals import Arrivals
from eval.setup import Setup
from mars_sglang.core.policies.mars import MarsTurnPolicy
from mars_sglang.core.policy import BaseTurnPolicy, admission_policy_names, turn_policy_names
from mars_sglang.core.views import PoolView, ProgramView
from tests.eval.simulator.builders import program, run

METHODS = ("order_turns", "may_be_passed", "order_reclaim", "order_victims")


@pytest.mark.parametrize("name", TURN_ABLATIONS)
def test_a_turn_ablation_differs_from_the_whole_in_one_method_which_is_sglangs(name):
    kind = TURN_ABLATIONS[name]
    changed = [method for method in METHODS if getattr(kind, method) is not getattr(MarsTurnPolicy, method)]
    assert len(changed) == 1
    assert getattr(kind, changed[0]) is getattr(BaseTurnPolicy, changed[0])


def view(name, tokens, context, idle_s=0.0, waits=False):
    return ProgramView(name, 0.0, 1.0 if waits else None, 0, tokens, idle_s, 3, context_tokens=context)


def test_without_growth_only_what_is_held_now_counts():
    # Footprints 600 + 500 > 950, contexts 400 + 500 < 950.
    inside, waiting = [view("a", 600, 400)], [view("b", 500, 500, waits=True)]
    decide = ADMISSION_ABLATIONS["mars-no-growth"]().decide
    assert decide(inside, waiting, PoolView(1000, 0), 0.0).admit == ("b",)


def test_without_pausing_an_overfull_pool_pauses_nobody():
    inside = [view("a", 800, 800), view("b", 800, 800)]
    assert ADMISSION_ABLATIONS["mars-no-pause"]().decide(inside, [], PoolView(1000, 0), 0.0).pause == ()


def test_without_dormancy_half_a_minute_of_silence_is_no_end():
    waiting = [view("b", 500, 500, waits=True)]
    decide = ADMISSION_ABLATIONS["mars-no-dormancy"]().decide
    assert decide([view("a", 600, 600, idle_s=60.0)], waiting, PoolView(1000, 0), 0.0).admit == ()
    assert decide([view("a", 600, 600, idle_s=601.0)], waiting, PoolView(1000, 0), 0.0).admit == ("b",)


@pytest.mark.parametrize("turn", TURN_ABLATIONS)
def test_they_run_in_the_simulator_and_no_server_offers_them(turn):
    result = run([program(id, (200, 5, 1.0), (220, 5)) for id in "abc"], Setup(turn, "mars"), arrivals=Arrivals(1.0))
    assert all(record.completed for record in result.result.programs)
    assert not {turn, *ADMISSION_ABLATIONS} & {*turn_policy_names(), *admission_policy_names()}
