"""SGLang's own cache, requests and orders in this process, without a server or a GPU: to test and to measure them."""

from __future__ import annotations

from array import array

import torch
from sglang.srt.managers.schedule_batch import FINISH_LENGTH, Req
from sglang.srt.managers.schedule_policy import SchedulePolicy
from sglang.srt.mem_cache.allocator import PagedTokenToKVPoolAllocator, TokenToKVPoolAllocator
from sglang.srt.mem_cache.base_prefix_cache import EvictParams, InsertParams
from sglang.srt.mem_cache.cache_init_params import CacheInitParams
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, ReqToTokenPool
from sglang.srt.mem_cache.radix_cache import RadixKey
from sglang.srt.mem_cache.unified_cache.component_type import ComponentType
from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache
from sglang.srt.runtime_context import publish
from sglang.srt.sampling.sampling_params import SamplingParams
from sglang.srt.server_args import ServerArgs

from mars_sglang.core.policy import turn_policy
from mars_sglang.core.views import EngineFacts
from mars_sglang.engine.radix_cache import MarsRadixCache
from mars_sglang.engine.turns import TurnBook
from mars_sglang.engine.wire import WireTurn


def prepare() -> None:
    """What SGLang's objects expect of the process that they are in."""
    publish(ServerArgs(model_path="dummy", device="cpu"), role="scheduler")
    # One thread does all the work, so its CPU time is all of it.
    torch.set_num_threads(1)


def request(rid: str, prompt: array) -> Req:
    return Req(rid, "", prompt, SamplingParams(max_new_tokens=256))


def native_order(name: str, cache: UnifiedRadixCache) -> SchedulePolicy:
    """SGLang's order of the waiting queue of that name."""
    return SchedulePolicy(name, cache, False, False, False)


def radix_cache(
    cache_class: type[UnifiedRadixCache], capacity_tokens: int, page_size: int = 1, tree_core: str | None = None
) -> UnifiedRadixCache:
    """A radix cache over a pool whose KV takes 4 bytes per token, so that the pool can have a real size.

    Args:
        cache_class: SGLang's or ours.
        tree_core: ``rust`` or ``python``; None: what SGLang takes by itself.
    """
    pool = MHATokenToKVPool(
        size=capacity_tokens,
        page_size=page_size,
        dtype=torch.float16,
        head_num=1,
        head_dim=1,
        layer_num=1,
        device="cpu",
        enable_memory_saver=False,
    )
    settings = {"dtype": torch.float16, "device": "cpu", "kvcache": pool, "need_sort": False}
    if page_size == 1:
        allocator = TokenToKVPoolAllocator(capacity_tokens, **settings)
    else:
        allocator = PagedTokenToKVPoolAllocator(capacity_tokens, page_size=page_size, **settings)
    params = CacheInitParams(
        disable=False,
        req_to_token_pool=ReqToTokenPool(size=8, max_context_len=64, device="cpu", enable_memory_saver=False),
        token_to_kv_pool_allocator=allocator,
        page_size=page_size,
        tree_components=(ComponentType.FULL,),
        tree_core_backend=tree_core,
    )
    return cache_class(params)


def attach(book: TurnBook, capacity_tokens: int) -> None:
    """Give the book's policy an engine of that pool, which prefills at the price that the book knows."""
    facts = EngineFacts(capacity_tokens, 8192, lambda extend, prefix: book.prefill.seconds(extend, prefix))
    book.policy.attach(facts)


class InProcessCache:
    """A radix cache, and the steps of a program's life as the scheduler makes them.

    Args:
        capacity_tokens: of the pool.
        policy: the turn policy in whose order it reclaims; None for SGLang's own cache.
    """

    def __init__(self, capacity_tokens: int, policy: str | None):
        self.book: TurnBook | None = None
        if policy is None:
            self.cache = radix_cache(UnifiedRadixCache, capacity_tokens)
        else:
            self.book = TurnBook(turn_policy(policy))
            self.cache = radix_cache(MarsRadixCache, capacity_tokens)
            self.cache.attach(self.book)
            attach(self.book, capacity_tokens)
        self._allocator = self.cache.token_to_kv_pool_allocator

    def end_turn(self, program: str | None, context: array, now_s: float, arrived_s: float) -> None:
        """A turn ended with this whole context in the cache; a retained one where there is a policy and a program."""
        cached, _, _ = self.cache.tree_core.match_full_device_prefix(RadixKey(context))
        slots = self._allocator.alloc(len(context) - cached)
        if slots is None:
            free = self._allocator.available_size()
            raise ValueError(f"a context with {len(context) - cached} new tokens; accepted: what is free, {free}")
        # What is cached is the tree's already, as it is the tree's for a request that matched it.
        value = torch.cat((torch.zeros(cached, dtype=slots.dtype), slots))
        result = self.cache.insert(InsertParams(key=RadixKey(context), value=value, prev_prefix_len=cached))
        if self.book is None or program is None:
            return
        self.book.now_s = now_s
        req = request(f"{program}-ended", context)
        req.mars = self.book.receive(WireTurn(program, now_s, arrived_s))
        req.finished_reason = FINISH_LENGTH(length=1)
        req.last_node, req.kv.cache_protected_len = result.last_device_node, len(context)
        self.cache.on_release(req, checkpointed=True)

    def evict(self, count: int) -> int:
        """Tokens that were evicted."""
        return self.cache.evict(EvictParams(num_tokens=count)).num_tokens_evicted
