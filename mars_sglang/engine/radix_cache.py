"""Retention: SGLang's radix cache, reclaiming in the policy's order.

Retained KV stays evictable in SGLang's books. Nothing is pinned, so retention can never
make the engine refuse what would fit without it, nor hold memory past a shortage. It is an
order of eviction and no more:

    1. what belongs to no known program's latest context (ended, superseded, anonymous),
       in SGLang's own order;
    2. retained contexts, program by program in the policy's order, each from its tail.

The tail of a program's context is the tree node where its last turn's insert ended. SGLang
evicts leaf by leaf; a leaf that is the tail of a program not yet given up is skipped. When
a tail is evicted, the parent becomes the tail, or the next node before it from which a turn
could go on: layers without full attention need a state of their own. Locks of running turns
work as ever.

Both tree cores work: all this needs of them is node ids.
"""

from collections import OrderedDict
from collections.abc import Container, Sequence
from typing import Any

from sglang.srt.mem_cache.base_prefix_cache import BasePrefixCache
from sglang.srt.mem_cache.registry import (
    TreeCacheBuildContext,
    create_unified_radix_cache,
    get_radix_cache_factory,
    register_radix_cache_backend,
)
from sglang.srt.mem_cache.unified_cache.component_type import ComponentType
from sglang.srt.mem_cache.unified_cache.unified_tree_core_interface import TreePathNodeInfo
from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

from mars_sglang.config import RADIX_CACHE_BACKEND
from mars_sglang.core.views import ContextState, ContextView
from mars_sglang.engine.resumption import resumption
from mars_sglang.engine.turns import MAX_ENGINE_PROGRAMS, TurnBook, keep_newest
from mars_sglang.stream.events import KvEvicted, KvReclaimed, KvReleased, KvRetained


def register_backend() -> None:
    """Make the cache selectable as ``--radix-cache-backend mars``; again is a no-op."""
    if get_radix_cache_factory(RADIX_CACHE_BACKEND) is None:
        register_radix_cache_backend(RADIX_CACHE_BACKEND, _create)


def _create(context: TreeCacheBuildContext) -> BasePrefixCache:
    """
    Raises:
        ValueError: the model has no cache that this one could stand for; only here is the model known.
    """
    for refused, reason in (
        (
            context.disable_radix_cache,
            "SGLang turns the radix cache off for it, and turns are ranked by what that holds",
        ),
        (
            context.is_hybrid_swa and context.full_tokens_per_layer == 0,
            "all its layers have a sliding window, and SGLang has another cache for that",
        ),
    ):
        if refused:
            raise ValueError(f"--scheduler-policy of mars-sglang does not support this model: {reason}")
    return create_unified_radix_cache(context, cache_class=MarsRadixCache)


class MarsRadixCache(UnifiedRadixCache):
    """Evicts in the order of a turn policy once :meth:`attach` gave it one."""

    def __init__(self, params):
        self._book: TurnBook | None = None
        self._left: OrderedDict[str, int] = OrderedDict()
        """Program to the length of the context that its last turn left here, whatever became of it."""
        self._forget()
        super().__init__(params)

    def attach(self, book: TurnBook) -> None:
        self._book = book

    def _forget(self) -> None:
        self._tail_of: dict[str, int] = {}
        """Program to the node where its cached context ends."""
        self._tokens_of: dict[str, int] = {}
        """Program to the length of that context."""
        self._programs_at: dict[int, list[str]] = {}
        """Node to the programs whose context ends there."""
        self._pins: dict[str, tuple[int, Any]] = {}
        """Program to the node that is locked for it, and SGLang's receipt for the lock."""
        self._given_up: set[str] | None = None
        """Programs whose tails may go, while an eviction is in progress; None otherwise."""
        self._skipped: dict[str, None] = {}
        self._reclaimed: dict[str, int] = {}
        """Tokens taken from retained contexts by the eviction in progress."""
        if self._book is not None:
            self._book.kept.clear()

    # -- what is retained ------------------------------------------------------------------

    def on_release(self, req, *, checkpointed: bool) -> None:
        super().on_release(req, checkpointed=checkpointed)
        turn = getattr(req, "mars", None)
        if turn is None or not req.finished():
            return
        if self._book is not None:
            self._book.turn_ended(req)
        if turn.program is None:
            return
        if checkpointed and not self.disable:
            keep_newest(self._left, turn.program, req.kv.cache_protected_len, MAX_ENGINE_PROGRAMS)
            self._retain(turn.program, req.last_node, req.kv.cache_protected_len)
            if turn.last:
                self.program_ended(turn.program)
            elif self._book is not None and turn.program in self._tokens_of:
                self.keep(turn.program)
                self._say(KvRetained, program=turn.program, turn=req.rid, pages=self.pages_of(turn.program))

    def turn_starts(self, req) -> None:
        """Note what a request found here, whose prefill is in the batch that was just made.

        Call it before :meth:`TurnBook.started`; it does nothing for one in the middle of its prefill.
        """
        turn, book = req.mars, self._book
        if not turn.starts:
            return
        book.counters["tokens_loaded"] += req.materialized_host_hit_len()
        known = book.programs.get(turn.program)
        if known is None or turn.prefill_s is not None:
            return
        if not turn.continuation:
            known.shared_tokens = req.cached_tokens
            return
        turn.resumption = resumption(
            left_tokens=self._left.get(turn.program, 0),
            # Of a cache with state of another kind, KV that is still here may be of no use without that.
            retained_tokens=0 if self.supports_swa() or self.supports_mamba() else self._tokens_of.get(turn.program, 0),
            shared_tokens=known.shared_tokens,
            prompt_tokens=len(req.origin_input_ids),
            found_tokens=req.cached_tokens,
            page_tokens=self.page_size,
        )
        if turn.resumption is not None:
            book.counters[f"turns_resumed_{turn.resumption.outcome}"] += 1
            book.counters["context_tokens_reused"] += turn.resumption.reused_tokens
            book.counters["context_tokens_recomputed"] += turn.resumption.recomputed_tokens

    def keep(self, program: str) -> None:
        """Ask the policy from which turns to keep the program's context; nothing where it has none."""
        book = self._book
        if book.policy.keeps_kv and program in self._tail_of:
            kept = book.policy.keep(self._context_view(program, frozenset()), book.now_s)
            if kept is not None:
                book.kept.put(program, kept)

    def program_ended(self, program: str) -> None:
        """Its context is nobody's any more, and goes before anyone's."""
        if program in self._tail_of:
            self._say(KvReleased, program=program, pages=self.pages_of(program))
            self._release(program)

    def pages_of(self, program: str) -> int:
        """KV pages retained for the program."""
        return self._tokens_of.get(program, 0) // self.page_size

    def _say(self, event_type: type, **fields) -> None:
        if self._book is not None:
            self._book.say(event_type, page_tokens=self.page_size, **fields)

    def reset(self) -> None:
        super().reset()
        self._forget()

    def retained(self) -> dict[str, int]:
        """Length of the retained context by program; a prefix that two share counts in both."""
        return dict(self._tokens_of)

    def retained_programs(self) -> int:
        """How many have a retained context."""
        return len(self._tail_of)

    def retained_tokens(self) -> int:
        """KV tokens under retention, each counted once. Walks the paths: for a state page, not a pass."""
        lengths: dict[int, int] = {}
        for node_id in self._programs_at:
            try:
                (path,) = self.tree_core.collect_path_info([node_id])
            except KeyError:
                # SGLang removed the leaf by a way that is not ours to see, as it may for
                # layers with state of another kind.
                continue
            lengths |= {node.node_id: node.path_end - node.path_start for node in path}
        return sum(lengths.values())

    def _retain(self, program: str, node_id: int, tokens: int) -> None:
        self._release(program)
        if self.is_root(node_id) or tokens <= 0:
            return
        self._tail_of[program] = node_id
        self._tokens_of[program] = tokens
        self._programs_at.setdefault(node_id, []).append(program)

    def _release(self, program: str) -> None:
        node_id = self._tail_of.pop(program, None)
        if node_id is None:
            return
        if self._book is not None:
            self._book.kept.drop(program)
        del self._tokens_of[program]
        owners = self._programs_at[node_id]
        owners.remove(program)
        if not owners:
            del self._programs_at[node_id]

    # -- what nothing may take ---------------------------------------------------------------

    def repin(self, running: int, more: bool = True) -> None:
        """Lock the contexts that the policy pins now, and no others. Called before every pass.

        Args:
            running: turns that decode. One in the middle of its prefill cannot be retracted to make room for
                another, so it does not count: SGLang would abort a lone turn that lacks memory to decode.
            more: whether contexts may be locked, too, that are not. Not in the middle of a prefill, which was
                started on the promise of the memory that it needs.
        """
        book = self._book
        if book is None or not book.policy.pins_kv:
            return
        waiting = {req.mars.program for req in book.waiting_queue}
        contexts = [self._context_view(program, waiting) for program in self._tail_of]
        wanted = {contexts[i].program: None for i in book.policy.pins(contexts, running, book.now_s)}
        for program, (node_id, lock) in list(self._pins.items()):
            if program not in wanted or self._tail_of.get(program) != node_id:
                del self._pins[program]
                self.unlock(lock)
        for program in wanted if more else ():
            if program not in self._pins:
                self._pins[program] = (self._tail_of[program], self.lock(self._tail_of[program]))

    # -- in what order it goes ---------------------------------------------------------------

    def _evict_components(
        self, request_by_type, tracker, available_size_targets=None, *, allocation_reclaim_satisfied=None
    ) -> None:
        def sweep() -> None:
            self._skipped = {}
            super(MarsRadixCache, self)._evict_components(
                request_by_type,
                tracker,
                available_size_targets,
                allocation_reclaim_satisfied=allocation_reclaim_satisfied,
            )

        if self._book is None:
            sweep()
            return
        self._reclaimed = {}
        before = _evicted(tracker)
        try:
            self._evict_in_order(sweep, request_by_type, tracker, available_size_targets, allocation_reclaim_satisfied)
        finally:
            self._say_evicted(_evicted(tracker) - before)

    def _evict_in_order(
        self, sweep, request_by_type, tracker, available_size_targets, allocation_reclaim_satisfied
    ) -> None:
        if not self._tail_of:
            sweep()
            return

        def satisfied() -> bool:
            if allocation_reclaim_satisfied is not None:
                return allocation_reclaim_satisfied()
            for component, count in request_by_type.items():
                target = (available_size_targets or {}).get(component)
                if target is not None:
                    if self._component_available_size(target[0]) < target[1]:
                        return False
                elif tracker.get(component, 0) < count:
                    return False
            return True

        self._given_up = set()
        try:
            sweep()
            while self._skipped and not satisfied():
                self._given_up.add(self._next_to_give_up())
                sweep()
        finally:
            self._given_up = None

    def _say_evicted(self, tokens: int) -> None:
        for program, lost in self._reclaimed.items():
            self._say(KvReclaimed, program=program, pages=lost // self.page_size, pages_left=self.pages_of(program))
        others = tokens - sum(self._reclaimed.values())
        if others >= self.page_size:
            self._say(KvEvicted, pages=others // self.page_size)

    def _next_to_give_up(self) -> str:
        """The first program in the policy's order among those whose tail the last sweep skipped."""
        book = self._book
        waiting = {req.mars.program for req in book.waiting_queue}
        contexts = [self._context_view(program, waiting) for program in self._skipped]
        first = contexts[book.policy.order_reclaim(contexts, book.now_s)[0]].program
        book.counters["contexts_reclaimed"] += 1
        if book.log is not None:
            book.log.write("reclaim", book.now_s, [first])
        return first

    def _context_view(self, program: str, waiting: Container[str | None]) -> ContextView:
        known = self._book.programs.get(program)
        if program in waiting:
            state = ContextState.WAITING
        elif program in self._book.paused:
            state = ContextState.PAUSED
        else:
            state = ContextState.TOOL
        return ContextView(
            program=program,
            tokens=self._tokens_of[program],
            state=state,
            idle_s=known.idle_s(self._book.now_s) if known else float("inf"),
            program_arrived_s=known.arrived_s if known else 0.0,
            turns=known.turns if known else 0,
            priority=known.priority if known else 0,
        )

    def may_evict(self, node_id) -> bool:
        """Whether nobody keeps this leaf. Asked by the walk itself where SGLang has the
        extension point (see patches/), else by the eviction of the leaf.
        """
        if self._given_up is None:
            return True
        kept = [program for program in self._programs_at.get(node_id, ()) if program not in self._given_up]
        self._skipped.update(dict.fromkeys(kept))
        return not kept

    def _evict_device_leaf(self, node_id, tracker) -> Any:
        if node_id not in self._programs_at:
            return super()._evict_device_leaf(node_id, tracker)
        if not self.may_evict(node_id):
            return None
        before = self._before(node_id)
        backup = super()._evict_device_leaf(node_id, tracker)
        if backup is None:
            self._move_tail(node_id, before)
        return backup

    def _demote(self, node_id, tracker) -> None:
        before = self._before(node_id) if node_id in self._programs_at else None
        super()._demote(node_id, tracker)
        self._move_tail(node_id, before)

    def _drop_subtree_no_host(self, node_id, tracker) -> bool:
        before = self._before(node_id) if node_id in self._programs_at else None
        dropped = super()._drop_subtree_no_host(node_id, tracker)
        if dropped:
            self._move_tail(node_id, before)
        return dropped

    def _before(self, node_id) -> tuple[int, int]:
        """Where the usable rest of a context ends once this leaf is gone: a node, and the tokens up to its end."""
        (path,) = self.tree_core.collect_path_info([node_id])
        # With a host tier the leaf comes back, and what is before it is of use again.
        while self.cache_controller is None and len(path) > 1 and not self._usable(path[:-1]):
            path = path[:-1]
        return path[-1].parent_id, path[-1].path_start

    def _usable(self, path: Sequence[TreePathNodeInfo]) -> bool:
        """Whether a turn can go on from the end of this path: layers without full attention need their own state."""
        state = self.tree_core.get_component_device_value
        if self.is_mamba_enabled and state(path[-1].node_id, ComponentType.MAMBA) is None:
            return False
        if not self.is_swa_enabled or not self.components[ComponentType.SWA].gates_prefix_match:
            return True
        covered = 0
        for node in reversed(path):
            if state(node.node_id, ComponentType.SWA) is None:
                return False
            covered += node.path_end - node.path_start
            if covered >= self.sliding_window_size:
                break
        return True

    def _move_tail(self, node_id, before: tuple[int, int] | None) -> None:
        owners = self._programs_at.get(node_id)
        if not owners:
            return
        end_id, tokens = before
        for program in list(owners):
            lost = self._tokens_of[program] - tokens
            self._book.counters["tokens_reclaimed"] += lost
            self._reclaimed[program] = self._reclaimed.get(program, 0) + lost
            self._book.kept.lose(program, lost)
            if tokens > 0:
                self._retain_at(program, end_id, tokens)
            else:
                self._release(program)

    def _retain_at(self, program: str, node_id: int, tokens: int) -> None:
        # As _retain, but keeps the program's place in the order of last ended turns.
        owners = self._programs_at[self._tail_of[program]]
        owners.remove(program)
        if not owners:
            del self._programs_at[self._tail_of[program]]
        self._tail_of[program] = node_id
        self._tokens_of[program] = tokens
        self._programs_at.setdefault(node_id, []).append(program)


def _evicted(tracker) -> int:
    """KV tokens of full attention that an eviction freed so far."""
    return tracker.get(ComponentType.FULL, 0)
