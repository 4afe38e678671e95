"""The preview of MARS by hand."""

from mars_sglang.core.views import TurnStarted
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


def sized(turn_id: str, context_tokens: int, arrived_s: float = 0.0, **fields):
    return waiting(turn_id, turn_id, arrived_s, context_tokens=context_tokens, **fields)


def test_levels_are_by_the_whole_prompt_and_first_come_first_served_within():
    policy = attached("mars-preview")
    turns = [
        sized("level 3", 32_769),
        sized("level 2", 32_768),
        sized("level 1", 8_192),
        sized("level 0, later", 1, 1.0),
        sized("level 0", 2_048),
    ]
    assert turn_order(policy, turns, 2.0) == ["level 0", "level 0, later", "level 1", "level 2", "level 3"]


def test_a_warm_long_continuation_waits_behind_a_cold_short_prompt_for_ever():
    warm = sized("warm", 100_000, uncached_tokens=200, continuation=True)
    cold = sized("cold", 8_000, 599.0, uncached_tokens=8_000)
    assert turn_order(attached("mars-preview"), [warm, cold], 600.0) == ["cold", "warm"]


def test_what_was_retracted_goes_before_all_and_the_latest_first():
    policy = attached("mars-preview")
    policy.observe(TurnStarted("a", "a", 0.0, 0), 1.0)
    policy.observe(TurnStarted("b", "b", 0.0, 0), 2.0)
    turns = [sized("small", 10), sized("a", 50_000), sized("b", 90_000)]
    assert turn_order(policy, turns, 3.0) == ["b", "a", "small"]
    policy.observe(ended("b", 90_000, turn_id="b"), 9.0)
    assert turn_order(policy, turns, 10.0) == ["a", "small", "b"]


def test_a_prefill_begins_with_2048_tokens_and_goes_on_with_256_a_step_however_long():
    policy = attached("mars-preview")
    for tokens in (3_000, 200_000):
        assert policy.quantum_tokens(sized("t", tokens), 0.0) == 2048
        assert policy.quantum_tokens(sized("t", tokens, started=True), 0.0) == 256


def test_the_larger_is_retracted_first_and_nothing_is_retained():
    policy = attached("mars-preview")
    turns = [
        running("small", "a", context_tokens=10),
        running("large", "b", context_tokens=20),
        running("large, later", "c", context_tokens=20, arrived_s=1.0),
    ]
    assert victim_order(policy, turns) == ["large, later", "large", "small"]
    assert reclaim_order(policy, [context("new", idle_s=1.0), context("old", idle_s=2.0)], 0.0) == ["old", "new"]
    assert not policy.pins_kv
