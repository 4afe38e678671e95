"""Which waiting turns share a prefill step, on SGLang's real requests, radix cache and budgets."""

import pytest

from mars_sglang.core.itl_target import LEAST_TOKENS
from mars_sglang.core.policies.mars import MarsTurnPolicy
from mars_sglang.core.prefill_pass import PASSING_TOKENS, SHARED_TOKENS
from mars_sglang.emulation.in_process import attach
from mars_sglang.engine.prefill_adder import MarsPrefillAdder
from tests.engine.conftest import make_cached_programs
from tests.engine.test_turn_queue import CAPACITY, prompt

STEP_TOKENS = 1024


@pytest.fixture
def p(tree_core):
    return make_cached_programs(tree_core, 1, CAPACITY)


def step(p) -> MarsPrefillAdder:
    adder = type("Booked", (MarsPrefillAdder,), {"book": p.book})
    return adder(1, p.cache, p.cache.token_to_kv_pool_allocator, None, 1.0, 16384, STEP_TOKENS)


def offer(adder: MarsPrefillAdder, *reqs) -> list[int]:
    """Prefill tokens of each in this step; 0 for one that is left out."""
    for req in reqs:
        req.init_next_round_input(adder.tree_cache)
        adder.add_one_req(req, False, None)
    return [req.extend_len if req in adder.can_run_list else 0 for req in reqs]


def test_of_turns_that_begin_with_the_same_uncached_prefix_one_goes_first(p):
    shared = prompt(0, SHARED_TOKENS)
    first, second = (p.asks(name, shared + prompt(i, 50), 0.0) for i, name in ((1, "a"), (2, "b")))
    almost = p.asks("c", shared[:-1] + prompt(3, 50), 0.0)
    other = p.asks("d", prompt(4, 50), 0.0)
    adder = step(p)
    assert offer(adder, first, second, almost, other) == [SHARED_TOKENS + 50, 0, SHARED_TOKENS + 49, 50]
    # Launched, and not in the cache yet, as with overlapped scheduling.
    p.book.computing.append(adder.can_run_list)
    assert offer(step(p), second) == [0]
    p.book.computing.clear()
    p.end_turn("a", shared + prompt(1, 50), 1.0)
    assert offer(step(p), second) == [50]


def test_only_short_turns_go_ahead_of_one_that_waits_for_memory(p):
    big, long, short = (
        p.asks(name, prompt(i, tokens), 0.0)
        for i, (name, tokens) in enumerate((("a", CAPACITY + 1), ("b", PASSING_TOKENS + 1), ("c", PASSING_TOKENS)))
    )
    assert offer(step(p), big, long, short) == [0, 0, PASSING_TOKENS]
    # What is cached of it is no work.
    p.end_turn("b", prompt(1, PASSING_TOKENS), 1.0)
    assert offer(step(p), big, long, short) == [0, 1, STEP_TOKENS - 1]


def test_a_turn_does_not_wait_for_the_prefix_of_another_adapter_nor_of_one_that_answers(p):
    shared = prompt(0, 2 * SHARED_TOKENS)
    first, second, third = (p.asks(name, shared, 0.0) for name in "abc")
    second.extra_key = "adapter"
    adder = step(p)
    assert offer(adder, first, second) == [len(shared), STEP_TOKENS - len(shared)]
    p.book.computing.append([first])
    assert offer(step(p), third) == [0]
    third.cache_salt = "tenant"
    assert offer(step(p), third) == [len(shared)]
    third.cache_salt = None
    first.mars.answering = True
    assert offer(step(p), third) == [len(shared)]


def test_a_step_takes_no_more_prefill_than_the_decoding_turns_leave_time_for(p):
    p.book.prefill_left_s = p.book.prefill.seconds(300, 0)
    long, longer, small = (
        p.asks(name, prompt(i, tokens), 0.0) for i, (name, tokens) in enumerate((("a", 900), ("b", 950), ("c", 20)))
    )
    adder = step(p)
    in_time = offer(adder, long, longer, small)
    assert in_time[0] in (299, 300) and in_time[1:] == [0, 0] and adder.new_chunked_req is long
    # A small one goes beside a small one.
    assert offer(step(p), small, longer) == [
        20,
        p.book.prefill.tokens_in(p.book.prefill_left_s - p.book.prefill.seconds(20)),
    ]


def test_where_there_is_no_time_at_all_a_step_is_the_smallest_there_is(p):
    p.book.prefill_left_s = 0.0
    assert offer(step(p), p.asks("a", prompt(0, 900), 0.0), p.asks("b", prompt(1, 20), 0.0)) == [LEAST_TOKENS, 0]


def test_one_turn_at_a_time_is_in_the_middle_of_its_prefill(p):
    class Cuts(MarsTurnPolicy):
        cuts_prefills = True

        def quantum_tokens(self, turn, now_s):
            return 200

    p.book.policy = Cuts()
    attach(p.book, CAPACITY)
    turns = [
        p.asks(name, prompt(i, tokens), 0.0) for i, (name, tokens) in enumerate((("a", 900), ("b", 900), ("c", 100)))
    ]
    adder = step(p)
    assert offer(adder, *turns) == [200, 0, 100] and adder.new_chunked_req is turns[0]
