"""What a turn waited for and how often what happened to turns, on SGLang's real requests, radix cache and budgets."""

import pytest

from mars_sglang.engine.resumption import COLD, PARTIAL, WARM, Resumption
from mars_sglang.engine.turns import KEPT, MEMORY, ORDER
from tests.engine.conftest import make_cached_programs
from tests.engine.test_prefill_adder import offer, step
from tests.engine.test_turn_queue import CAPACITY, arranged_queue, prompt


@pytest.fixture
def p(tree_core):
    return make_cached_programs(tree_core, 1, CAPACITY)


def look(p, *started) -> None:
    """The scheduler looks for a prefill, and these turns are in the batch."""
    p.book.looks += 1
    if not started:
        return
    p.book.batches += 1
    for req in started:
        p.cache.turn_starts(req)
        p.book.started(req.rid, req.mars)


# -- what a turn waited for


def test_a_turn_that_starts_at_the_first_look_waited_for_nothing(p):
    look(p, p.asks("before", prompt(0, 50), 0.0))
    turn = p.asks("a", prompt(1, 50), 1.0)
    look(p, turn)
    assert turn.mars.waited_for is None


def test_one_that_let_others_start_waited_for_its_turn(p):
    turn, other = p.asks("a", prompt(0, 50), 0.0), p.asks("b", prompt(1, 50), 0.0)
    look(p, other)
    look(p, turn)
    assert (other.mars.waited_for, turn.mars.waited_for) == (None, ORDER)


def test_one_that_waited_while_nobody_started_waited_for_room(p):
    turn = p.asks("a", prompt(0, 50), 0.0)
    look(p)
    look(p, turn)
    assert turn.mars.waited_for == MEMORY


def test_one_that_did_not_fit_waited_for_room_though_others_went_ahead(p):
    big, small = p.asks("a", prompt(0, CAPACITY + 1), 0.0), p.asks("b", prompt(1, 50), 0.0)
    assert offer(step(p), big, small) == [0, 50]
    look(p, small)
    look(p, big)
    assert big.mars.waited_for == MEMORY


def test_what_a_turn_waited_for_is_of_its_first_start(p):
    turn = p.asks("a", prompt(0, 50), 0.0)
    look(p, turn)
    turn.mars.retractions += 1
    p.book.queued(turn.rid, turn.mars, 60)
    turn.mars.short_of_memory = True
    look(p)
    look(p, turn)
    assert turn.mars.waited_for is None and not turn.mars.starts


# -- counted once a turn


def test_a_turn_is_passed_over_once_however_often_and_only_if_another_went_ahead(p):
    big = p.asks("a", prompt(0, CAPACITY + 1), 0.0)
    offer(step(p), big)
    assert not big.mars.passed_over
    for i in (1, 2):
        offer(step(p), big, p.asks(f"b{i}", prompt(i, 50), 0.0))
    assert big.mars.passed_over and p.book.counters["turns_passed_over"] == 1


def test_a_turn_is_held_for_kept_contexts_once_however_often(p):
    p.end_turn("agent", prompt(0, 2_000), at_s=0.0)
    p.book.kept.put("agent", p.book.policy.keep(p.cache._context_view("agent", ()), 0.0)._replace(until_s=110.0))
    big = p.asks("cold", prompt(1, 3_000), 100.0)
    p.book.busy_s = 102.0
    arranged_queue(p, [big], 102.0)
    for _ in range(2):
        assert offer(step(p), big) == [0]
    look(p, big)
    assert p.book.counters["turns_held_for_kept"] == 1 and p.book.counters["turns_passed_over"] == 0
    assert big.mars.waited_for == KEPT


# -- what a turn found of its program's context


def starts(p, program: str, tokens: list[int], at_s: float = 9.0):
    """A turn's prefill starts with what the cache has of its prompt, as SGLang notes it in making the batch."""
    req = p.asks(program, tokens, at_s)
    req.init_next_round_input(p.cache)
    req.cached_tokens = req.prefix_len
    look(p, req)
    return req.mars.resumption


def test_a_turn_that_finds_its_whole_context_is_warm_and_counted_with_its_tokens(cached_programs):
    p = cached_programs
    p.end_turn("agent", prompt(0, 640), at_s=1.0)
    assert starts(p, "agent", prompt(0, 640) + prompt(1, 100)) == Resumption(WARM, 640, 0)
    counted = p.book.counters
    assert (counted["turns_resumed_warm"], counted["context_tokens_reused"]) == (1, 640)
    assert counted["context_tokens_recomputed"] == counted["turns_resumed_partial"] == 0


def test_one_whose_tail_was_evicted_is_partial(cached_programs):
    p = cached_programs
    p.end_turn("agent", prompt(0, 320), at_s=1.0)
    p.end_turn("agent", prompt(0, 640), at_s=2.0)
    p.evict(16)
    assert starts(p, "agent", prompt(0, 740)) == Resumption(PARTIAL, 320, 320)


@pytest.mark.parametrize("lost", ["evicted", "flushed"])
def test_one_whose_context_is_gone_is_cold(cached_programs, lost):
    p = cached_programs
    p.end_turn("agent", prompt(0, 640), at_s=1.0)
    if lost == "evicted":
        p.evict(640)
    else:
        p.cache.reset()
    assert starts(p, "agent", prompt(0, 740)) == Resumption(COLD, 0, 640)
    assert p.book.counters["context_tokens_recomputed"] == 640


def test_what_the_first_turn_found_is_not_its_programs_own(cached_programs):
    p = cached_programs
    p.end_turn(None, prompt(9, 320), at_s=1.0)
    assert starts(p, "agent", prompt(9, 320) + prompt(0, 160), at_s=2.0) is None
    assert p.book.programs.get("agent").shared_tokens == 320
    p.end_turn("agent", prompt(9, 320) + prompt(0, 160), at_s=3.0)
    p.evict(160)
    assert starts(p, "agent", prompt(9, 320) + prompt(0, 200), at_s=4.0) == Resumption(COLD, 320, 160)


def test_a_compacted_prompt_reuses_what_it_still_has_in_common(cached_programs):
    p = cached_programs
    p.end_turn("agent", prompt(0, 640), at_s=1.0)
    assert starts(p, "agent", prompt(0, 160) + prompt(1, 200)) == Resumption(WARM, 160, 0)


def test_a_later_chunk_and_a_start_after_a_retraction_count_no_second_resumption(cached_programs):
    p = cached_programs
    p.end_turn("agent", prompt(0, 640), at_s=1.0)
    req = p.asks("agent", prompt(0, 740), at_s=2.0)
    req.cached_tokens, req.host_hit_length, req.host_loaded_length = 640, 320, 320
    look(p, req)
    look(p, req)
    assert p.book.counters["tokens_loaded"] == 320
    req.mars.retractions += 1
    p.book.queued(req.rid, req.mars, 740)
    look(p, req)
    assert p.book.counters["tokens_loaded"] == 640 and p.book.counters["turns_resumed_warm"] == 1
