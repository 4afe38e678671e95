"""SGLang's own cache and requests in this process, without a server."""

from __future__ import annotations

from array import array

import numpy as np
import torch
from sglang.srt.managers.schedule_batch import FINISH_LENGTH, Req
from sglang.srt.mem_cache.allocator import TokenToKVPoolAllocator
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
from mars_sglang.engine.radix_cache import MarsRadixCache
from mars_sglang.engine.turns import TurnBook
from mars_sglang.engine.wire import WireTurn

_VOCABULARY = 150_000


def prepare() -> None:
    """What SGLang's objects expect of the process that they are in."""
    publish(ServerArgs(model_path="dummy", device="cpu"), role="scheduler")
    # One thread does all the work, so its CPU time is all of it.
    torch.set_num_threads(1)


def tokens(seed: int, count: int) -> array:
    """A context of its own: no two seeds share a prefix."""
    drawn = array("q")
    drawn.frombytes(np.random.default_rng(seed).integers(0, _VOCABULARY, count, dtype=np.int64).tobytes())
    drawn[0] = _VOCABULARY + seed
    return drawn


def request(rid: str, prompt: array) -> Req:
    return Req(rid, "", prompt, SamplingParams(max_new_tokens=256))


class CacheUnderTest:
    """A radix cache over a pool whose KV takes 4 bytes per token, so that the pool can have a real size.

    Args:
        capacity_tokens: of the pool.
        policy: the turn policy in whose order it reclaims; None for SGLang's own cache.
    """

    def __init__(self, capacity_tokens: int, policy: str | None):
        pool = MHATokenToKVPool(
            size=capacity_tokens,
            page_size=1,
            dtype=torch.float16,
            head_num=1,
            head_dim=1,
            layer_num=1,
            device="cpu",
            enable_memory_saver=False,
        )
        self._allocator = TokenToKVPoolAllocator(
            capacity_tokens, dtype=torch.float16, device="cpu", kvcache=pool, need_sort=False
        )
        params = CacheInitParams(
            disable=False,
            req_to_token_pool=ReqToTokenPool(size=8, max_context_len=64, device="cpu", enable_memory_saver=False),
            token_to_kv_pool_allocator=self._allocator,
            page_size=1,
            tree_components=(ComponentType.FULL,),
        )
        self.book: TurnBook | None = None
        if policy is None:
            self.cache = UnifiedRadixCache(params)
        else:
            self.book = TurnBook(turn_policy(policy))
            self.cache = MarsRadixCache(params)
            self.cache.attach(self.book)

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
