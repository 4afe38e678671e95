"""MARS after its paper by hand: a pool of 100,000 tokens, 10,000 prefilled a second."""

from mars_sglang.core.views import ContextState, ProgramOver, ToolKnown, TurnArrived, TurnStarted
from tests.core.policies.engines import (
    attached,
    context,
    ended,
    reclaim_order,
    running,
    turn_order,
    victim_order,
    waiting,
)


def arrive(policy, program: str, context_tokens: int, at_s: float, pause_s: float | None = None):
    policy.observe(TurnArrived(program, program, context_tokens, pause_s), at_s)
    return waiting(program, program, at_s, context_tokens=context_tokens)


def turn(policy, program, context_tokens, *, at_s, waited_s=0.0, cached_tokens=0, pause_s=None, tool=None):
    """A whole turn that ends a second after it was scheduled."""
    policy.observe(TurnArrived(f"{program}@{at_s}", program, context_tokens, pause_s), at_s)
    policy.observe(TurnStarted(f"{program}@{at_s}", program, waited_s, 0), at_s + waited_s)
    end_s = at_s + waited_s + 1.0
    turn_id = f"{program}@{at_s}"
    policy.observe(
        ended(program, context_tokens, turn_id=turn_id, cached_tokens=cached_tokens, started_s=at_s + waited_s), end_s
    )
    if tool is not None:
        policy.observe(ToolKnown(program, tool), end_s)


def retained(policy, program: str, now_s: float) -> bool:
    """Whether the context of a program of a low level goes after one that is not retained, of the top level."""
    return reclaim_order(policy, [context(program), context("unknown", tokens=1)], now_s) == ["unknown", program]


# -- the queue ---------------------------------------------------------------------------------


def test_small_footprints_start_high():
    policy = attached("mars-paper")
    turns = [arrive(policy, "large", 40_000, 0.0), arrive(policy, "small", 1_000, 1.0)]
    assert turn_order(policy, turns, 2.0) == ["small", "large"]


def test_a_program_sinks_with_the_service_that_it_got_and_not_with_its_context():
    policy = attached("mars-paper")
    turn(policy, "served", 1_000, at_s=0.0)
    # 1,000 + 9,000 computed: level 2. "warm" computed 1,000 + 500 for the same context: level 0.
    turn(policy, "served", 10_000, at_s=2.0, cached_tokens=1_000)
    turn(policy, "warm", 1_000, at_s=0.0)
    turn(policy, "warm", 10_000, at_s=2.0, cached_tokens=9_500)
    turns = [arrive(policy, "served", 10_000, 5.0), arrive(policy, "warm", 10_000, 6.0)]
    assert turn_order(policy, turns, 7.0) == ["warm", "served"]


def test_waiting_raises_a_turn_up_to_the_top_level_and_no_further():
    policy = attached("mars-paper")
    large, small = arrive(policy, "large", 40_000, 0.0), arrive(policy, "small", 1_000, 89.0)
    assert turn_order(policy, [large, small], 89.9) == ["small", "large"]
    assert turn_order(policy, [large, small], 90.0) == ["large", "small"]
    # A level more would be due at 120 s: arrival decides on the top level.
    early = arrive(policy, "early", 1_000, -1.0)
    assert turn_order(policy, [large, early], 120.0) == ["early", "large"]


def test_a_retracted_turn_begins_to_wait_again():
    policy = attached("mars-paper")
    large = arrive(policy, "large", 40_000, 0.0)
    policy.observe(TurnStarted("large", "large", 80.0, 0), 80.0)
    assert turn_order(policy, [large, arrive(policy, "small", 1_000, 95.0)], 100.0) == ["small", "large"]


def test_victims_follow_the_queues_and_the_larger_goes_first():
    policy = attached("mars-paper")
    arrive(policy, "low", 40_000, 0.0)
    arrive(policy, "a", 1_000, 0.0)
    arrive(policy, "b", 1_000, 0.0)
    turns = [
        running("a", "a", context_tokens=2_000),
        running("b", "b", context_tokens=2_500),
        running("low", "low", context_tokens=100),
    ]
    assert victim_order(policy, turns) == ["low", "b", "a"]


# -- retention ---------------------------------------------------------------------------------


def test_a_context_is_retained_while_a_warm_resumption_is_worth_its_memory():
    # C = 20,000 of K = 100,000. Gain: prefill 2 s, no queueing seen. A second costs .2 s of the pool: worth 10 s.
    policy = attached("mars-paper")
    turn(policy, "p", 20_000, at_s=0.0)  # ends at 1 s
    assert retained(policy, "p", 10.9)
    assert not retained(policy, "p", 11.0)


def test_it_is_not_retained_through_a_tool_that_takes_longer_on_the_average():
    policy = attached("mars-paper")
    for i, (tool, pause_s) in enumerate([("ls", 1.0), ("build", 30.0)]):
        turn(policy, "teacher", 100, at_s=-100.0 + 40 * i, tool=tool)
        policy.observe(TurnArrived("x", "teacher", 100, pause_s), -60.0 + 40 * i)
    turn(policy, "p", 20_000, at_s=0.0, tool="build")
    turn(policy, "q", 20_000, at_s=0.0, tool="ls")
    # Without a name all calls count: 1 + .1 x (30 - 1) = 3.9 s, under the 10 s that it is worth.
    turn(policy, "r", 20_000, at_s=0.0)
    assert not retained(policy, "p", 1.5)
    assert retained(policy, "q", 1.5)
    assert retained(policy, "r", 1.5)


def test_queueing_that_warm_continuations_are_spared_counts_as_gain():
    policy = attached("mars-paper")
    turn(policy, "a", 1_000, at_s=-100.0)
    turn(policy, "a", 1_000, at_s=-90.0, waited_s=5.0, cached_tokens=0)  # cold
    turn(policy, "b", 1_000, at_s=-100.0)
    turn(policy, "b", 1_000, at_s=-90.0, waited_s=1.0, cached_tokens=900)  # warm
    turn(policy, "p", 20_000, at_s=0.0)  # ends at 1 s
    # Gain 2 + (5 - 1) = 6 s: worth 30 s of a fifth of the pool.
    assert retained(policy, "p", 30.9)
    assert not retained(policy, "p", 31.0)


def test_reclaiming_takes_the_paused_the_not_retained_the_retained_and_the_waiting_in_turn():
    policy = attached("mars-paper")
    for program, tokens in (("small", 20_000), ("large", 30_000), ("top", 1_000), ("w", 20_000), ("paused", 20_000)):
        turn(policy, program, tokens, at_s=0.0)
    turn(policy, "not retained", 20_000, at_s=-60.0)
    contexts = [
        context("w", tokens=20_000, state=ContextState.WAITING),
        context("top", tokens=1_000),
        context("small", tokens=20_000),
        context("large", tokens=30_000),
        context("not retained", tokens=20_000),
        context("paused", tokens=20_000, state=ContextState.PAUSED),
    ]
    # Both retained ones of level 2 go before that of level 0, the larger first.
    order = reclaim_order(policy, contexts, 2.0)
    assert order == ["paused", "not retained", "large", "small", "top", "w"]


def test_a_program_that_is_over_is_retained_no_longer_and_retention_never_pins():
    policy = attached("mars-paper")
    turn(policy, "p", 20_000, at_s=0.0)
    assert retained(policy, "p", 2.0)
    policy.observe(ProgramOver("p"), 2.0)
    views = [context("p", tokens=20_000), context("q", tokens=20_000)]
    turn(policy, "q", 20_000, at_s=1.0)
    assert reclaim_order(policy, views, 3.0) == ["p", "q"]
    assert not policy.pins_kv
    assert policy.pins(views, 5, 3.0) == []
