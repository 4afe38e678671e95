"""The first MARS turn policy, by hand."""

from mars_sglang.core.policies.mars import AGEING_TOKENS_PER_S, DORMANT_S, MAX_PASSED_S, MarsTurnPolicy
from mars_sglang.core.views import ContextState, ContextView, RunningView, TurnView

policy = MarsTurnPolicy()


def turn(turn_id: str, uncached: int, arrived_s: float = 0.0, program: str | None = "p", priority: int = 0) -> TurnView:
    return TurnView(turn_id, program, uncached, uncached + 10_000, arrived_s, priority)


def ordered(*turns: TurnView, now_s: float = 100.0) -> list[str]:
    return [turns[i].turn_id for i in policy.order_turns(turns, now_s)]


def test_a_warm_100k_turn_goes_before_a_cold_short_prompt():
    warm = TurnView("warm", "a", uncached_tokens=300, context_tokens=100_000, arrived_s=0.0)
    cold = TurnView("cold", "b", uncached_tokens=4_000, context_tokens=4_000, arrived_s=0.0)
    assert ordered(cold, warm) == ["warm", "cold"]


def test_waiting_makes_up_for_size_at_the_stated_rate():
    big = turn("big", uncached=100_000, arrived_s=0.0)
    bound_s = 100_000 / AGEING_TOKENS_PER_S
    assert ordered(big, turn("early", 1, arrived_s=bound_s - 1)) == ["early", "big"]
    assert ordered(big, turn("late", 1, arrived_s=bound_s + 1)) == ["big", "late"]


def test_requests_without_an_id_stay_in_their_order_of_arrival():
    long_first = turn("long", 50_000, arrived_s=0.0, program=None)
    short_second = turn("short", 100, arrived_s=1.0, program=None)
    agent = turn("agent", 10_000, arrived_s=1.0)
    assert ordered(short_second, long_first, agent) == ["agent", "long", "short"]


def test_a_turn_that_does_not_fit_may_be_passed_for_a_bounded_time():
    assert policy.may_be_passed(turn("t", 1, arrived_s=10.0), 10.0 + MAX_PASSED_S - 1)
    assert not policy.may_be_passed(turn("t", 1, arrived_s=10.0), 10.0 + MAX_PASSED_S)


def test_contexts_go_paused_then_silent_then_by_latest_program_and_waiting_last():
    def context(program, state, idle_s=1.0, arrived_s=0.0):
        return ContextView(program, 1000, state, idle_s, arrived_s, 3)

    contexts = [
        context("waiting", ContextState.WAITING),
        context("tool-old", ContextState.TOOL, arrived_s=1.0),
        context("tool-new", ContextState.TOOL, arrived_s=2.0),
        context("silent", ContextState.TOOL, idle_s=DORMANT_S),
        context("silent-longer", ContextState.TOOL, idle_s=2 * DORMANT_S),
        context("paused", ContextState.PAUSED),
    ]
    order = [contexts[i].program for i in policy.order_reclaim(contexts, 0.0)]
    assert order == ["paused", "silent-longer", "silent", "tool-new", "tool-old", "waiting"]


def test_the_victim_is_the_latest_program_and_not_the_same_turn_again():
    def running(turn_id, arrived_s, retractions=0, output=10):
        return RunningView(turn_id, turn_id, 5_000, output, 0.0, arrived_s, retractions)

    turns = [running("old", 1.0), running("new", 3.0), running("newest-but-a-victim-already", 9.0, retractions=1)]
    order = [turns[i].turn_id for i in policy.order_victims(turns, 0.0)]
    assert order == ["new", "old", "newest-but-a-victim-already"]
