"""The waiting queue's order: SGLang's ``SchedulePolicy`` with our policy inside."""

from math import inf
from typing import Any

from sglang.srt.managers.schedule_policy import SchedulePolicy, match_kv_cache

from mars_sglang.core.itl_target import LEAST_TOKENS
from mars_sglang.core.kept import NOTHING_KEPT, arrange
from mars_sglang.core.views import TurnView
from mars_sglang.engine.turns import TurnBook

#: Waiting turns whose cached prefix is looked up anew in a pass, from the front. Matching
#: walks the whole prefix, so doing it for all is what makes native lpm give up at 128
#: waiting; the order only needs it where it is about to be used, and admission of a turn
#: to a batch matches again for itself.
REMATCHED_PER_PASS = 8


def waiting_view(req: Any) -> TurnView:
    """A waiting host request as the policy sees it."""
    turn = req.mars
    context = len(req.origin_input_ids) + len(req.output_ids)
    return TurnView(
        turn_id=req.rid,
        program=turn.program,
        uncached_tokens=max(1, context - req.num_matched_prefix_tokens),
        context_tokens=context,
        arrived_s=turn.arrived_s,
        priority=turn.priority,
        continuation=turn.continuation,
        program_arrived_s=turn.program_arrived_s,
        started=turn.prefill_s is not None and turn.retracted_s is None,
    )


def most_tokens(req: Any, book: TurnBook, left_s: float) -> int | None:
    """Prefill tokens of this request in one step, at most; None for as many as there are.

    Args:
        left_s: seconds of prefill that decoding turns leave; infinite where none is to be kept from its tokens.
    """
    quantum = book.policy.quantum_tokens(waiting_view(req), book.now_s) if book.policy.cuts_prefills else None
    if left_s == inf:
        return quantum
    in_time = max(LEAST_TOKENS, book.prefill.tokens_in(left_s, req.prefix_len))
    return in_time if quantum is None else min(quantum, in_time)


class MarsSchedulePolicy(SchedulePolicy):
    """Sorts with a :class:`~mars_sglang.core.policy.TurnPolicy`; the rest is SGLang's.

    Args:
        book: the engine's turn book.
        args: as :class:`SchedulePolicy`.
    """

    def __init__(self, book: TurnBook, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.book = book

    def calc_priority(self, waiting_queue, running_batch=None, processed_tokens=0) -> None:
        book = self.book
        book.waiting_queue = waiting_queue
        if not waiting_queue:
            return
        # The front is where a stale look-up would matter: what was evicted or added since.
        for req in waiting_queue[:REMATCHED_PER_PASS]:
            self._match(req)
        views = [req.mars.view or self._look(req) for req in waiting_queue]
        order = book.policy.order_turns(views, book.now_s)
        if book.policy.keeps_kv:
            order = self._arrange(order, views)
        waiting_queue[:] = [waiting_queue[i] for i in order]
        if book.log is not None and order != list(range(len(order))):
            book.log.write("order", book.now_s, [req.rid for req in waiting_queue])
        book.counters["passes"] += 1

    def _match(self, req: Any) -> None:
        before = req.num_matched_prefix_tokens if req.mars.matched else None
        match_kv_cache(req, self.tree_cache)
        req.mars.matched = True
        if req.num_matched_prefix_tokens != before:
            req.mars.view = None

    def _look(self, req: Any) -> TurnView:
        if not req.mars.matched:
            self._match(req)
        req.mars.view = waiting_view(req)
        return req.mars.view

    def _arrange(self, order: list[int], views: list[TurnView]) -> list[int]:
        """Turns that have to wait for kept contexts go behind those that can start."""
        book = self.book
        for program in book.kept.due(book.now_s):
            self.tree_cache.keep(program)
        if not len(book.kept):
            book.arranged = NOTHING_KEPT
            return order
        room = self._room()
        idle_s = 0.0
        if book.now_s > book.busy_s:
            since_s = max(book.busy_s, min(req.mars.queued_s for req in book.waiting_queue))
            idle_s = max(0.0, book.now_s - since_s)
        book.arranged = arrange(
            order, views, lambda turn: book.policy.rank(turn, book.now_s), book.kept, room, book.spare_tokens, idle_s
        )
        return book.arranged.order

    def _room(self) -> int:
        """Tokens of KV that are free or would be after an eviction. Of full attention's alone: a window's pool may be
        full of what a chunk's own eviction frees."""
        return self.tree_cache.token_to_kv_pool_allocator.create_prefill_budget(self.tree_cache).remaining_total

    def shortest_prefill_chunk_limit(self, chunked_req, waiting_queue, budget: int, page_size: int) -> int | None:
        """SGLang's room for short turns beside a long one, and no more of the long one than its quantum, nor
        than there is memory for."""
        limit = super().shortest_prefill_chunk_limit(chunked_req, waiting_queue, budget, page_size)
        room = self._room()
        most = most_tokens(chunked_req, self.book, self.book.prefill_left_s)
        most = min(budget if most is None else most, room) // page_size * page_size
        if most >= budget:
            return limit
        # Room for less than a page is SGLang's to report: it ends the process.
        most = max(page_size, most)
        return most if limit is None else min(limit, most)
