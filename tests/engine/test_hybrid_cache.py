"""Retention on caches that hold more than full attention's KV: a sliding window's, or the state of linear attention.

SGLang keeps such a state in a pool of its own and evicts it by its own walk. A context is usable where it is there.
"""

import random
from array import array

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sglang = pytest.importorskip("sglang")

from sglang.srt.configs.mamba_utils import Mamba2CacheParams, Mamba2StateShape  # noqa: E402
from sglang.srt.mem_cache.allocator import TokenToKVPoolAllocator  # noqa: E402
from sglang.srt.mem_cache.allocator.swa import SWATokenToKVPoolAllocator  # noqa: E402
from sglang.srt.mem_cache.base_prefix_cache import EvictParams, InsertParams, InsertResult, MatchPrefixParams  # noqa: E402
from sglang.srt.mem_cache.cache_init_params import CacheInitParams  # noqa: E402
from sglang.srt.mem_cache.memory_pool import HybridLinearKVPool, HybridReqToTokenPool, ReqToTokenPool  # noqa: E402
from sglang.srt.mem_cache.radix_cache import RadixKey  # noqa: E402
from sglang.srt.mem_cache.registry import TreeCacheBuildContext, get_radix_cache_factory  # noqa: E402
from sglang.srt.mem_cache.swa_memory_pool import SWAKVPool  # noqa: E402
from sglang.srt.mem_cache.unified_cache.component_type import ComponentType  # noqa: E402
from sglang.srt.runtime_context import publish  # noqa: E402
from sglang.srt.server_args import ServerArgs  # noqa: E402

from mars_sglang.core.policy import turn_policy  # noqa: E402
from mars_sglang.emulation.in_process import attach  # noqa: E402
from mars_sglang.engine.radix_cache import MarsRadixCache, register_backend  # noqa: E402
from mars_sglang.engine.turn_queue import MarsSchedulePolicy  # noqa: E402
from mars_sglang.engine.turns import TurnBook  # noqa: E402
from tests.engine.conftest import CachedPrograms, next_context  # noqa: E402
from tests.engine.test_radix_cache import context  # noqa: E402

POOL_TOKENS, WINDOW = 4096, 128
_KV = {"dtype": torch.float16, "head_num": 1, "head_dim": 1, "full_attention_layer_ids": [1], "device": "cpu"}
_POOL = {"size": POOL_TOKENS, "page_size": 1}


class HybridPrograms(CachedPrograms):
    """Programs whose contexts have a second state; ``evict_state`` asks for room for that alone."""

    def insert(self, key: RadixKey) -> InsertResult:
        if not self.cache.supports_mamba():
            return super().insert(key)
        states = self.cache.req_to_token_pool.mamba_allocator
        slots, state = self.cache.token_to_kv_pool_allocator.alloc(len(key)), states.alloc(1)
        assert slots is not None and state is not None, "the test's pools are too small for its contexts"
        result = self.cache.insert(InsertParams(key=key, value=slots, mamba_value=state))
        if result.mamba_exist:
            states.free(state)
        return result

    def room_for(self, tokens: int) -> None:
        """As the scheduler makes it before a prefill: asks for what is short, and gets it."""
        pool = self.cache.token_to_kv_pool_allocator
        full = pool.full_available_size() if self.cache.supports_swa() else pool.available_size()
        short = max(0, (1 if self.cache.supports_mamba() else tokens) - self.state_free())
        if self.cache.supports_mamba():
            room = EvictParams(num_tokens=max(0, tokens - full), mamba_num=short)
        else:
            room = EvictParams(num_tokens=max(0, tokens - full), swa_num_tokens=short)
        self.cache.evict_for_alloc(room)

    def usable(self, tokens: list[int]) -> int:
        """Tokens of this context that a request would not have to compute."""
        return self.cache.match_prefix(MatchPrefixParams(key=RadixKey(array("q", tokens)))).device_prefix_len

    def evict_state(self, count: int) -> int:
        """Tokens of the window, or states; how many went."""
        if self.cache.supports_mamba():
            return self.cache.evict(EvictParams(num_tokens=0, mamba_num=count)).mamba_num_evicted
        return self.cache.evict(EvictParams(num_tokens=0, swa_num_tokens=count)).swa_num_tokens_evicted

    def state_free(self) -> int:
        if self.cache.supports_mamba():
            return self.cache.req_to_token_pool.mamba_allocator.available_size()
        return self.cache.token_to_kv_pool_allocator.swa_available_size()

    def state_evictable(self) -> int:
        return self.cache.mamba_evictable_size() if self.cache.supports_mamba() else self.cache.swa_evictable_size()

    def accounted(self) -> None:
        pool = self.cache.token_to_kv_pool_allocator
        full = pool.full_available_size() if self.cache.supports_swa() else pool.available_size()
        assert full + self.cache.evictable_size() == POOL_TOKENS
        assert self.state_free() + self.state_evictable() == self.states
        assert self.cache.protected_size() == 0
        self.cache.sanity_check()

    @property
    def states(self) -> int:
        if self.cache.supports_mamba():
            return self.cache.req_to_token_pool.mamba_allocator.size
        return self.cache.token_to_kv_pool_allocator.size_swa


def make(kind: str, tree_core: str, states: int) -> HybridPrograms:
    """Programs on a cache whose second pool holds ``states`` tokens of the window, or states."""
    arguments = ServerArgs(model_path="dummy", device="cpu")
    # SGLang asks the model for it, and there is none.
    arguments._mamba_cache_chunk_size = 64
    publish(arguments, role="scheduler")
    if kind == "window":
        kv = SWAKVPool(**_POOL, size_swa=states, swa_attention_layer_ids=[0], **_KV)
        allocator = SWATokenToKVPoolAllocator(
            **_POOL, size_swa=states, dtype=torch.float16, device="cpu", kvcache=kv, need_sort=False
        )
        requests = ReqToTokenPool(size=8, max_context_len=64, device="cpu", enable_memory_saver=False)
        more = {"sliding_window_size": WINDOW, "tree_components": (ComponentType.FULL, ComponentType.SWA)}
    else:
        shape = Mamba2StateShape.create(
            tp_world_size=1, intermediate_size=1, n_groups=1, num_heads=1, head_dim=1, state_size=1, conv_kernel=2
        )
        requests = HybridReqToTokenPool(
            size=8, mamba_size=states, mamba_spec_state_size=8, max_context_len=64, device="cpu",
            enable_memory_saver=False, cache_params=Mamba2CacheParams(shape=shape, layers=[0]), mamba_layer_ids=[0],
            enable_mamba_extra_buffer=False,
        )  # fmt: skip
        kv = HybridLinearKVPool(**_POOL, enable_memory_saver=False, mamba_pool=requests.mamba_pool, **_KV)
        allocator = TokenToKVPoolAllocator(POOL_TOKENS, torch.float16, "cpu", kv, need_sort=False)
        more = {"tree_components": (ComponentType.FULL, ComponentType.MAMBA)}
    cache = MarsRadixCache(
        CacheInitParams(
            disable=False, req_to_token_pool=requests, token_to_kv_pool_allocator=allocator, page_size=1,
            tree_core_backend=tree_core, **more,
        )
    )  # fmt: skip
    book = TurnBook(turn_policy("mars"))
    cache.attach(book)
    attach(book, POOL_TOKENS)
    return HybridPrograms(cache, book)


@pytest.fixture(params=["window", "state"])
def programs(request, tree_core):
    return make(request.param, tree_core, states=4096 if request.param == "window" else 16)


def test_a_retained_contexts_state_outlives_a_newer_one_that_is_nobodys(programs):
    p = programs
    p.end_turn("agent", context(0, 500), at_s=1.0)
    p.end_turn("agent", context(0, 700), at_s=2.0)
    p.end_turn(None, context(1, 600), at_s=3.0)
    # All but one window, or one state. What the last turn added is longer than a window: its leaf has all of it.
    p.evict_state(p.state_evictable() - (WINDOW if p.cache.supports_swa() else 1))
    assert p.usable(context(0, 700)) == 700 and p.cache.retained() == {"agent": 700}
    assert p.usable(context(1, 600)) == 0
    p.accounted()


def test_states_go_latest_program_first_and_only_as_many_as_needed(programs):
    p = programs
    for i, arrived_s in enumerate([3.0, 1.0, 2.0]):
        p.end_turn(f"p{i}", context(i, WINDOW), at_s=5.0, arrived_s=arrived_s)
    need = WINDOW if p.cache.supports_swa() else 1
    assert p.evict_state(need) == need
    assert [p.usable(context(i, WINDOW)) for i in range(3)] == [0, WINDOW, WINDOW]
    assert p.evict_state(need) == need
    assert [p.usable(context(i, WINDOW)) for i in range(3)] == [0, WINDOW, 0]
    assert p.cache.retained() == {"p1": WINDOW}
    p.accounted()


def test_a_request_for_kv_alone_goes_by_the_same_order(programs):
    p = programs
    p.end_turn("first", context(0, 320), at_s=5.0, arrived_s=1.0)
    p.end_turn("last", context(1, 320), at_s=5.0, arrived_s=2.0)
    p.end_turn(None, context(2, 320), at_s=5.0)
    assert p.evict(320) == 320
    assert [p.usable(context(i, 320)) for i in range(3)] == [320, 320, 0]
    p.evict(320)
    assert p.usable(context(0, 320)) == 320 and p.usable(context(1, 320)) == 0
    p.accounted()


def test_all_that_is_retained_can_be_reclaimed(programs):
    p = programs
    for i in range(5):
        p.end_turn(f"p{i}", context(i, 640), at_s=1.0)
    assert p.evict(3200) == 3200
    assert p.state_free() == p.states and p.cache.retained() == {}
    p.accounted()


def test_a_context_whose_state_is_gone_is_neither_retained_nor_kept(programs):
    p = programs
    p.end_turn("agent", context(0, 500), at_s=1.0)
    p.end_turn("agent", context(0, 700), at_s=2.0)
    p.evict_state(p.state_evictable())
    assert p.matched(context(0, 700)) > 0 and p.usable(context(0, 700)) == 0
    assert p.cache.retained() == {} and len(p.book.kept) == 0
    p.accounted()


def test_what_is_left_of_a_context_ends_where_a_state_is(programs):
    p = programs
    p.end_turn("agent", context(0, 400), at_s=1.0)
    p.end_turn("agent", context(0, 700), at_s=1.0)
    # A branch splits the agent's last node, and no state stands where it does.
    p.end_turn(None, context(0, 500) + context(1, 200), at_s=1.0)
    assert p.evict(200) == 200 and p.cache.retained() == {"agent": 700}
    p.evict(1)
    left = p.usable(context(0, 700))
    # The last node of a window's cache is one window, and those before it have theirs.
    assert left == (700 - WINDOW if p.cache.supports_swa() else 400)
    assert p.cache.retained() == {"agent": left} and p.book.kept.ahead_of(None) == left
    p.accounted()


def test_a_long_prefill_is_not_cut_to_what_is_free_of_the_window(tree_core):
    p = make("window", tree_core, states=2048)
    req = p.asks("agent", context(0, 4000), at_s=1.0)
    p.insert(RadixKey(array("q", context(0, 2000))))
    match = p.cache.match_prefix(MatchPrefixParams(key=RadixKey(array("q", context(0, 2000)))))
    lock = p.cache.lock(match.last_device_node)
    # Free are 48 tokens of the window and 2,096 of full attention; the window of all but the last tokens can go.
    assert (p.state_free(), p.cache.evictable_size()) == (48, 0) and p.state_evictable() == 2000 - WINDOW
    order = MarsSchedulePolicy(p.book, "fcfs", p.cache, False, False, False)
    assert order.shortest_prefill_chunk_limit(req, [], 512, 1) is None
    assert order.shortest_prefill_chunk_limit(req, [], 4000, 1) == 2096
    p.cache.unlock(lock)
    p.accounted()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"is_hybrid_swa": True, "full_tokens_per_layer": 0}, "all its layers have a sliding window"),
        ({"disable_radix_cache": True}, "SGLang turns the radix cache off for it"),
    ],
)
def test_a_model_for_which_sglang_has_no_such_cache_is_refused(fields, message):
    model = {"is_hybrid_swa": False, "is_hybrid_ssm": False, "disable_radix_cache": False} | fields
    context = TreeCacheBuildContext(
        server_args=None, params=None, enable_hierarchical_cache=False, tp_worker=None, model_config=None, tp_size=1,
        tp_rank=0, tp_group=None, **model,
    )  # fmt: skip
    register_backend()
    with pytest.raises(ValueError, match=f"does not support this model: {message}"):
        get_radix_cache_factory("mars")(context)


@pytest.mark.parametrize("core", ["rust", "python"])
@pytest.mark.parametrize("kind", ["window", "state"])
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_any_history_keeps_both_books_straight(kind, core, seed):
    """Random programs, turns, compactions, pauses, and room made in either pool: nothing leaks, nothing is refused."""
    rng = random.Random(seed)
    p = make(kind, core, states=2048 if kind == "window" else 12)
    contexts: dict[str, list[int]] = {}
    for step in range(50):
        name, tokens = next_context(rng, contexts, most=200)
        p.room_for(len(tokens))
        p.end_turn(name if rng.random() < 0.9 else None, tokens, at_s=float(step))
        contexts[name] = tokens
        if rng.random() < 0.3:
            p.evict_state(rng.randrange(1, 400 if kind == "window" else 4))
        p.book.paused = frozenset(n for n in contexts if rng.random() < 0.2)
        p.accounted()
    p.evict(2 * POOL_TOKENS)
    assert p.cache.retained() == {} and p.state_free() == p.states
    p.accounted()
