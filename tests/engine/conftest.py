"""SGLang's real cache on a pool of a few thousand tokens, with either tree core."""

import random
from array import array
from dataclasses import dataclass

import pytest

sglang = pytest.importorskip("sglang")

from sglang.srt.managers.schedule_batch import FINISH_LENGTH, Req  # noqa: E402
from sglang.srt.mem_cache.base_prefix_cache import EvictParams, InsertParams, InsertResult, MatchPrefixParams  # noqa: E402
from sglang.srt.mem_cache.radix_cache import RadixKey  # noqa: E402

from mars_sglang.core.policy import turn_policy  # noqa: E402
from mars_sglang.emulation.in_process import attach, prepare, radix_cache, request  # noqa: E402
from mars_sglang.engine.radix_cache import MarsRadixCache  # noqa: E402
from mars_sglang.engine.turns import TurnBook  # noqa: E402
from mars_sglang.engine.wire import WireTurn  # noqa: E402


@dataclass
class CachedPrograms:
    """A cache with a book, and the steps of a program's life as the scheduler makes them."""

    cache: MarsRadixCache
    book: TurnBook

    def end_turn(
        self,
        program: str | None,
        tokens: list[int],
        at_s: float,
        arrived_s: float | None = None,
        last: bool = False,
        adapter: str | None = None,
    ) -> None:
        """A turn of ``program`` ended with this whole context in the cache, computed with this LoRA adapter."""
        self.book.now_s = at_s
        page = self.cache.page_size
        whole = len(tokens) // page * page
        matched = self.matched(tokens, adapter)
        result = self.insert(RadixKey(array("q", tokens[:whole]), adapter))
        assert result.prefix_len == matched
        if program is None:
            return
        req = self.asks(program, tokens, at_s, arrived_s, last)
        self.book.started(req.rid, req.mars)
        req.finished_reason = FINISH_LENGTH(length=1)
        req.last_node, req.kv.cache_protected_len = result.last_device_node, whole
        self.cache.on_release(req, checkpointed=True)

    def insert(self, key: RadixKey) -> InsertResult:
        slots = self.cache.token_to_kv_pool_allocator.alloc(len(key))
        assert slots is not None, "the test's pool is too small for its contexts"
        return self.cache.insert(InsertParams(key=key, value=slots))

    def asks(
        self, program: str | None, tokens: list[int], at_s: float, arrived_s: float | None = None, last: bool = False
    ) -> Req:
        """A turn of ``program`` with this prompt enters the queue."""
        self.book.now_s = at_s
        req = request(f"{program}-{at_s}", array("q", tokens))
        came_s = at_s if arrived_s is None else arrived_s
        req.mars = self.book.receive(WireTurn(program, at_s, came_s, tuple(sorted(self.book.paused)), last))
        self.book.queued(req.rid, req.mars, len(tokens))
        return req

    def matched(self, tokens: list[int], adapter: str | None = None) -> int:
        """Tokens of this context that the cache still holds, without touching it."""
        length, _, _ = self.cache.tree_core.match_full_device_prefix(RadixKey(array("q", tokens), adapter))
        return length

    def evict(self, tokens: int) -> int:
        return self.cache.evict(EvictParams(num_tokens=tokens)).num_tokens_evicted

    def touch(self, tokens: list[int]) -> None:
        self.cache.match_prefix(MatchPrefixParams(key=RadixKey(array("q", tokens))))

    def accounted(self) -> None:
        """Every page is free or in the tree, and no lock is left."""
        pool = self.cache.token_to_kv_pool_allocator
        assert pool.available_size() + self.cache.evictable_size() == pool.size
        assert self.cache.protected_size() == 0
        assert sorted(self.cache.retained()) == sorted(self.cache._tail_of)
        for node, programs in self.cache._programs_at.items():
            assert programs and all(self.cache._tail_of[p] == node for p in programs)


@pytest.fixture(params=["rust", "python"])
def tree_core(request):
    return request.param


@pytest.fixture(params=[1, 16], ids=["page1", "page16"])
def page_size(request):
    return request.param


@pytest.fixture
def cached_programs(tree_core, page_size):
    return make_cached_programs(tree_core, page_size)


def make_cached_programs(tree_core: str, page_size: int, pool_tokens: int = 4096) -> CachedPrograms:
    prepare()
    cache = radix_cache(MarsRadixCache, pool_tokens, page_size, tree_core)
    book = TurnBook(turn_policy("mars"))
    cache.attach(book)
    attach(book, pool_tokens)
    return CachedPrograms(cache, book)


def next_context(rng: random.Random, contexts: dict[str, list[int]], most: int) -> tuple[str, list[int]]:
    """One of six programs, and its context, cut at times, then grown by fewer than ``most`` tokens."""
    name = f"p{rng.randrange(6)}"
    tokens = list(contexts.get(name, [rng.randrange(3)] * 20))
    if rng.random() < 0.2:
        tokens = tokens[: rng.randrange(1, len(tokens) + 1)]
    tokens += [rng.randrange(1000) for _ in range(rng.randrange(1, most))]
    return name, tokens[-700:]
