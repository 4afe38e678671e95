"""Retention on SGLang's real radix cache: what goes first, what is left, what is accounted for."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mars_sglang.core.policy import BaseTurnPolicy
from mars_sglang.engine.wire import WireTurn
from tests.engine.conftest import make_cached_programs, next_context


class PinsWhatItIsTold(BaseTurnPolicy):
    name = "pins"
    pins_kv = True

    def __init__(self):
        self.pinned: set[str] = set()

    def pins(self, contexts, running, now_s):
        return [i for i, context in enumerate(contexts) if running and context.program in self.pinned]


def context(program: int, tokens: int) -> list[int]:
    """Distinct contexts: no two programs share a prefix."""
    return [10_000 * (program + 1) + i for i in range(tokens)]


def test_a_retained_context_outlives_unowned_kv_that_is_newer(cached_programs):
    p = cached_programs
    p.end_turn("agent", context(0, 640), at_s=1.0)
    p.end_turn(None, context(1, 640), at_s=2.0)  # anonymous, and more recently used
    assert p.evict(640) >= 640
    assert p.matched(context(0, 640)) == 640
    assert p.matched(context(1, 640)) == 0
    p.accounted()


def test_contexts_go_latest_program_first_and_only_as_many_as_needed(cached_programs):
    p = cached_programs
    for i, arrived_s in enumerate([3.0, 1.0, 2.0]):
        p.end_turn(f"p{i}", context(i, 320), at_s=5.0, arrived_s=arrived_s)
    assert p.evict(320) == 320
    assert [p.matched(context(i, 320)) for i in range(3)] == [0, 320, 320]
    assert p.evict(320) == 320
    assert [p.matched(context(i, 320)) for i in range(3)] == [0, 320, 0]
    assert p.cache.retained() == {"p1": 320}
    p.accounted()


def test_a_paused_program_goes_before_all_others(cached_programs):
    p = cached_programs
    p.end_turn("first", context(0, 320), at_s=5.0, arrived_s=1.0)
    p.end_turn("second", context(1, 320), at_s=5.0, arrived_s=2.0)
    p.book.paused = frozenset({"first"})
    p.evict(320)
    assert p.cache.retained() == {"second": 320}


def test_the_tail_goes_before_the_head_and_the_rest_stays_a_usable_prefix(cached_programs):
    p = cached_programs
    p.end_turn("agent", context(0, 160), at_s=1.0)
    p.end_turn("agent", context(0, 480), at_s=2.0)
    p.end_turn("agent", context(0, 640), at_s=3.0)
    p.evict(16)
    assert p.matched(context(0, 640)) == 480
    assert p.cache.retained() == {"agent": 480}
    assert p.book.counters["tokens_reclaimed"] == 160
    p.accounted()


def test_a_superseded_branch_is_nobodys_and_goes_first(cached_programs):
    p = cached_programs
    old = context(0, 320)
    new = old[:160] + context(7, 320)
    p.end_turn("agent", old, at_s=1.0)
    p.end_turn("agent", new, at_s=2.0)
    p.touch(old)  # the old branch is the most recently used, and still goes
    p.evict(160)
    assert (p.matched(new), p.matched(old)) == (480, 160)
    p.accounted()


def test_a_prefix_shared_by_two_programs_stays_until_both_gave_up(cached_programs):
    p = cached_programs
    shared = context(9, 320)
    p.end_turn("a", shared + context(0, 160), at_s=3.0, arrived_s=1.0)
    p.end_turn("b", shared + context(1, 160), at_s=3.0, arrived_s=2.0)
    assert p.cache.retained_tokens() == 640  # the shared prefix once
    p.evict(160)
    assert p.cache.retained() == {"a": 480, "b": 320}
    assert p.matched(shared + context(0, 160)) == 480
    p.evict(480)
    assert p.matched(shared) == 0
    assert p.cache.retained() == {}
    p.accounted()


def test_contexts_of_two_adapters_are_two_contexts_though_their_text_is_the_same(cached_programs):
    p = cached_programs
    p.end_turn("early", context(0, 320), at_s=5.0, arrived_s=1.0, adapter="first")
    p.end_turn("late", context(0, 320), at_s=5.0, arrived_s=2.0, adapter="second")
    assert p.cache.retained_tokens() == 640
    assert p.evict(320) == 320
    assert [p.matched(context(0, 320), adapter) for adapter in ("first", "second", None)] == [320, 0, 0]
    assert p.cache.retained() == {"early": 320}
    p.accounted()


def test_all_retained_kv_can_be_reclaimed(cached_programs):
    p = cached_programs
    for i in range(5):
        p.end_turn(f"p{i}", context(i, 640), at_s=1.0)
    pool = p.cache.token_to_kv_pool_allocator
    assert p.cache.evictable_size() == 3200  # retained is evictable in SGLang's books
    assert p.evict(3200) == 3200
    assert pool.available_size() == pool.size
    assert p.cache.retained() == {}


def test_a_running_turns_lock_is_respected_and_left_in_place(cached_programs):
    p = cached_programs
    p.end_turn("running", context(0, 320), at_s=1.0, arrived_s=9.0)
    p.end_turn("other", context(1, 320), at_s=1.0, arrived_s=1.0)
    lock = p.cache.lock(p.cache._tail_of["running"])
    assert p.evict(4096) == 320
    assert p.matched(context(0, 320)) == 320
    p.cache.unlock(lock)
    p.accounted()


def test_flush_forgets_what_was_retained(cached_programs):
    p = cached_programs
    p.end_turn("agent", context(0, 320), at_s=1.0)
    p.cache.reset()
    p.cache.token_to_kv_pool_allocator.clear()
    assert p.cache.retained() == {}
    p.end_turn("agent", context(0, 320), at_s=2.0)
    p.evict(320)
    p.accounted()


def test_without_a_book_it_is_sglangs_own_cache(tree_core):
    p = make_cached_programs(tree_core, 1)
    p.cache._book = None
    p.end_turn(None, context(0, 320), at_s=1.0)
    p.end_turn(None, context(1, 320), at_s=1.0)
    p.evict(320)
    assert (p.matched(context(0, 320)), p.matched(context(1, 320))) == (0, 320)


@pytest.mark.parametrize("core", ["rust", "python"])
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_any_history_keeps_the_books_straight(core, seed):
    """Random programs, turns, compactions, pauses and evictions: nothing leaks, nothing is refused."""
    rng = random.Random(seed)
    p = make_cached_programs(core, 1, pool_tokens=2048)
    contexts: dict[str, list[int]] = {}
    for step in range(60):
        name, tokens = next_context(rng, contexts, most=120)
        short = len(tokens) - p.cache.token_to_kv_pool_allocator.available_size()
        if short > 0:
            assert p.evict(short) >= short
        if rng.random() < 0.9:
            p.end_turn(name, tokens, at_s=float(step))
            contexts[name] = tokens
        else:
            p.end_turn(None, tokens, at_s=float(step))
        p.book.paused = frozenset(n for n in contexts if rng.random() < 0.2)
        p.accounted()
    for name, tokens in p.cache.retained().items():
        assert tokens <= len(contexts[name])
    p.evict(10_000)
    assert p.cache.retained() == {}
    p.accounted()


def test_pinned_kv_is_neither_reclaimed_nor_counted_as_reclaimable_until_it_is_let_go(cached_programs):
    p = cached_programs
    policy = p.book.policy = PinsWhatItIsTold()
    p.end_turn("kept", context(0, 320), at_s=1.0)
    p.end_turn("other", context(1, 320), at_s=2.0)
    policy.pinned = {"kept"}
    p.cache.repin(running=2)
    assert p.cache.evictable_size() == 320 and p.cache.protected_size() == 320
    assert p.evict(640) == 320
    assert p.matched(context(0, 320)) == 320 and p.matched(context(1, 320)) == 0
    p.cache.repin(running=0)
    p.accounted()
    assert p.evict(320) == 320


def test_a_pin_follows_its_program_to_its_next_context(cached_programs):
    p = cached_programs
    policy = p.book.policy = PinsWhatItIsTold()
    policy.pinned = {"agent"}
    p.end_turn("agent", context(0, 160), at_s=1.0)
    p.cache.repin(running=1)
    p.end_turn("agent", context(0, 480), at_s=2.0)
    p.cache.repin(running=1)
    assert p.cache.protected_size() == 480
    policy.pinned = set()
    p.cache.repin(running=1)
    p.accounted()


def test_a_flush_forgets_pins(cached_programs):
    p = cached_programs
    p.book.policy = PinsWhatItIsTold()
    p.book.policy.pinned = {"agent"}
    p.end_turn("agent", context(0, 320), at_s=1.0)
    p.cache.repin(running=1)
    p.cache.reset()
    p.cache.repin(running=1)
    assert p.cache.protected_size() == 0 and p.cache.retained() == {}


def test_a_context_is_kept_from_the_end_of_a_turn_on_until_the_next_one_asks(cached_programs):
    p = cached_programs
    p.end_turn("agent", context(0, 320), at_s=1.0)
    assert (len(p.book.kept), p.book.kept.ahead_of(None)) == (1, 320)
    p.asks("agent", context(0, 480), at_s=1.1)
    assert (len(p.book.kept), p.book.kept.own_tokens("agent")) == (0, 320)


def test_a_turn_that_is_given_up_asks_for_nothing(cached_programs):
    p = cached_programs
    p.end_turn("agent", context(0, 320), at_s=1.0)
    req = p.asks("agent", context(0, 480), at_s=1.1)
    p.book.dropped(req.rid, req.mars)
    assert p.book.kept.own_tokens("agent") == 0
    assert p.cache.retained() == {"agent": 320}


def test_what_is_evicted_is_no_longer_kept(cached_programs):
    p = cached_programs
    p.end_turn("agent", context(0, 160), at_s=1.0)
    p.end_turn("agent", context(0, 480), at_s=2.0)
    p.evict(16)
    assert p.book.kept.ahead_of(None) == 160
    p.evict(160)
    assert len(p.book.kept) == 0


def test_nothing_is_kept_of_a_program_that_is_over_or_paused_nor_after_a_flush(cached_programs):
    p = cached_programs
    p.end_turn("over", context(0, 160), at_s=1.0, last=True)
    assert len(p.book.kept) == 0
    p.end_turn("ended", context(1, 160), at_s=1.0)
    p.end_turn("paused", context(2, 160), at_s=1.0)
    p.end_turn("flushed", context(3, 160), at_s=1.0)
    assert p.book.kept.ahead_of(None) == 480
    p.cache.program_ended("ended")
    assert p.book.kept.ahead_of(None) == 320
    p.book.receive(WireTurn("flushed", 1.0, 1.0, paused=("paused",)))
    assert (len(p.book.kept), p.book.kept.own_tokens("flushed")) == (0, 160)
    p.cache.reset()
    assert p.book.kept.own_tokens("flushed") == 0
