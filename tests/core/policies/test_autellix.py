"""Autellix's PLAS by hand."""

from mars_sglang.core.views import ProgramOver, TurnArrived, TurnStarted
from tests.core.policies.engines import attached, ended, running, turn_order, victim_order, waiting


def served(policy, program: str, tokens: int, *, waited_s: float, seconds: float, at_s: float = 0.0) -> None:
    """A call that waits, and is served in so many seconds with so many tokens computed."""
    turn_id = f"{program}@{at_s}"
    policy.observe(TurnArrived(turn_id, program, tokens, None), at_s)
    policy.observe(TurnStarted(turn_id, program, waited_s, 0), at_s + waited_s)
    end_s = at_s + waited_s + seconds
    policy.observe(ended(program, tokens, turn_id=turn_id, started_s=at_s + waited_s), end_s)


def back(policy, program: str, at_s: float):
    """A call of the program in the queue."""
    policy.observe(TurnArrived(program, program, 1_000, 1.0), at_s)
    return waiting(program, program, at_s)


def test_the_service_of_finished_calls_places_a_program_in_one_of_four_queues():
    policy = attached("autellix")
    # Queue 0: below 2048 tokens; 1: below 8192; 2: below 32768; 3.
    for program, tokens in (("d", 32_768), ("c", 8_192), ("b", 2_048), ("a", 2_047)):
        served(policy, program, tokens, waited_s=0.0, seconds=100.0)
    # Reversed arrivals, so that the order is that of the queues; "new" has had nothing.
    turns = [back(policy, p, 101.0 + i) for i, p in enumerate(["d", "c", "b", "a"])] + [back(policy, "new", 106.0)]
    assert turn_order(policy, turns, 110.0) == ["a", "new", "b", "c", "d"]


def test_within_a_queue_it_is_first_come_first_served():
    policy = attached("autellix")
    served(policy, "more", 8_000, waited_s=0.0, seconds=100.0)
    served(policy, "less", 3_000, waited_s=0.0, seconds=100.0)
    assert turn_order(policy, [back(policy, "less", 102.0), back(policy, "more", 101.0)], 110.0) == ["more", "less"]


def test_service_is_what_was_computed_over_all_calls_and_not_what_the_cache_had():
    policy = attached("autellix")
    served(policy, "x", 1_500, waited_s=0.0, seconds=50.0)
    # 1,500, then 10,000 of which 9,800 were cached and 100 are output: 1,500 + 100 + 100 = 1,700 < 2,048.
    policy.observe(ended("x", 10_000, cached_tokens=9_800, output_tokens=100, started_s=50.0), 100.0)
    served(policy, "y", 2_100, waited_s=0.0, seconds=100.0)
    assert turn_order(policy, [back(policy, "y", 101.0), back(policy, "x", 102.0)], 105.0) == ["x", "y"]


def test_a_call_of_a_program_that_waited_twice_its_service_is_promoted():
    policy = attached("autellix")
    # 10 s served, 5 s waited: starved once a call has waited 15 s more, (5 + 15) / 10 = 2.
    served(policy, "big", 40_000, waited_s=5.0, seconds=10.0)
    big = back(policy, "big", 20.0)
    small = back(policy, "small", 21.0)
    assert turn_order(policy, [big, small], 34.9) == ["small", "big"]
    assert turn_order(policy, [big, small], 35.0) == ["big", "small"]


def test_promotion_is_of_the_call_and_forgives_its_waiting_but_not_the_service_of_the_program():
    policy = attached("autellix")
    served(policy, "big", 40_000, waited_s=5.0, seconds=10.0)
    back(policy, "big", 20.0)
    policy.observe(TurnStarted("big", "big", 15.0, 0), 35.0)
    # While it runs it is of the top queue, and sinks with what it decodes.
    others = [running("second queue", "x", output_tokens=3_000)]
    assert victim_order(policy, [running("big", "big", context_tokens=9_000), *others]) == ["second queue", "big"]
    decoded = running("big", "big", context_tokens=9_000, output_tokens=3_000)
    assert victim_order(policy, [decoded, *others]) == ["big", "second queue"]
    policy.observe(ended("big", 1_000, turn_id="big", started_s=35.0), 45.0)
    # 41,000 tokens, 20 s served and 5 s waited, the 15 s being forgiven: starved after 35 s.
    policy.observe(TurnArrived("again", "big", 1_000, 5.0), 50.0)
    again, late = waiting("again", "big", 50.0), back(policy, "late", 51.0)
    assert turn_order(policy, [again, late], 84.9) == ["late", "again"]
    assert turn_order(policy, [again, late], 85.0) == ["again", "late"]


def test_a_start_without_starvation_promotes_nobody():
    policy = attached("autellix")
    served(policy, "big", 40_000, waited_s=5.0, seconds=10.0)
    back(policy, "big", 20.0)
    policy.observe(TurnStarted("big", "big", 14.0, 0), 34.0)
    turns = [running("big", "big"), running("other", "other", context_tokens=50_000)]
    assert victim_order(policy, turns) == ["big", "other"]


def test_waiting_after_a_retraction_is_waiting_and_not_service():
    policy = attached("autellix")
    policy.observe(TurnArrived("t", "p", 5_000, None), 0.0)
    policy.observe(TurnStarted("t", "p", 0.0, 0), 0.0)
    policy.observe(TurnStarted("t", "p", 6.0, 1), 8.0)
    policy.observe(ended("p", 5_000, turn_id="t", started_s=0.0), 10.0)
    # Of 10 s, 6 waited and 4 served: starved after 2 s more.
    turns = [back(policy, "p", 20.0), back(policy, "new", 20.5)]
    assert turn_order(policy, turns, 21.9) == ["new", "p"]
    assert turn_order(policy, turns, 22.0) == ["p", "new"]


def test_victims_are_of_the_lowest_queue_then_the_larger_then_the_latest():
    policy = attached("autellix")
    served(policy, "low", 40_000, waited_s=0.0, seconds=100.0)
    turns = [
        running("low", "low", context_tokens=10),
        running("decoded much", "b", output_tokens=2_048, context_tokens=100),
        running("large", "c", context_tokens=9_000),
        running("latest", "d", context_tokens=500, arrived_s=9.0),
        running("earlier", "e", context_tokens=500, arrived_s=8.0),
    ]
    assert victim_order(policy, turns) == ["low", "decoded much", "large", "latest", "earlier"]


def test_a_program_that_is_over_is_forgotten():
    policy = attached("autellix")
    served(policy, "p", 40_000, waited_s=0.0, seconds=100.0)
    policy.observe(ProgramOver("p"), 101.0)
    assert turn_order(policy, [back(policy, "p", 102.0), back(policy, "q", 103.0)], 104.0) == ["p", "q"]


def test_it_pins_nothing_and_leaves_the_chunk_to_the_engine():
    policy = attached("autellix")
    assert not policy.pins_kv
    assert policy.quantum_tokens(waiting("t", "p", started=True), 0.0) is None
