"""SGLang's prefill adder, except that a turn that does not fit need not stop those behind it."""

from itertools import chain

from sglang.srt.managers.schedule_policy import CLIP_MAX_NEW_TOKENS, AddReqResult, PrefillAdder

from mars_sglang.core.itl_target import LEAST_TOKENS
from mars_sglang.core.prefill_pass import MAX_MISSES_PER_PASS, PASSING_TOKENS, SHARED_TOKENS
from mars_sglang.engine.turn_queue import most_tokens, waiting_view
from mars_sglang.engine.turns import ReqTurn, TurnBook

#: Whether SGLang's prefill loop asks ``may_pass`` itself (see patches/).
_LOOP_ASKS = hasattr(PrefillAdder, "may_pass")


class MarsPrefillAdder(PrefillAdder):
    """Skips what does not fit, for as long as the policy lets it be passed."""

    #: Set on the subclass that a scheduler makes for itself: SGLang calls the class with
    #: its own arguments only.
    book: TurnBook

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.misses = 0
        self._left_s = self.book.prefill_left_s
        """Seconds of prefill that decoding turns leave, less what was added."""
        self.short_of_memory = False
        """Whether a turn was skipped for want of KV, which only a leaving turn can change."""
        self._skipped: list[ReqTurn] = []
        """Turns that did not fit and let those behind them try."""
        self._memory_is_awaited = False
        """Whether one of them waits for turns that run to leave theirs."""
        self.book.counters["prefill_passes"] += 1

    def add_chunked_req(self, req):
        unfinished = super().add_chunked_req(req)
        self._spend(req)
        if unfinished is not None:
            self._reserve_rest(unfinished)
        return unfinished

    def add_one_req(self, req, has_chunked_req, truncation_align_size):
        if not self.is_hybrid_ssm_cache and self._is_being_computed(req):
            self.book.counters["waited_for_a_shared_prefix"] += 1
            self.misses += 1
            return AddReqResult.CONTINUE if self.misses < MAX_MISSES_PER_PASS else AddReqResult.OTHER
        if self.can_run_list and self._left_s < self._least_s(req):
            return AddReqResult.OTHER
        if self._memory_is_awaited and _to_compute(req) > PASSING_TOKENS:
            return self._rejected(req, AddReqResult.OTHER)
        withheld = self._withhold(req)
        kept = self.book.arranged.withheld_from(req.rid)
        self.memory_budget.total_offset += kept
        result = super().add_one_req(req, has_chunked_req, truncation_align_size)
        self.memory_budget.total_offset -= kept
        if self.new_chunked_req is req:
            self._reserve_rest(req)
        if withheld:
            self.rem_chunk_tokens += withheld
        added = bool(self.can_run_list) and self.can_run_list[-1] is req
        if added:
            self._spend(req)
            self._pass_over()
        if (withheld or kept) and added:
            # What is left of the step for those behind, and not for this turn.
            result = self.budget_state()
        return result if added or result == AddReqResult.CONTINUE else self._rejected(req, result)

    def _rejected(self, req, result):
        """What to answer for a turn that is not added: SGLang's loop ends with one whose result is not CONTINUE."""
        if _LOOP_ASKS or self.is_hybrid_ssm_cache:
            # A mamba tree hands the request a state slot before this call, and the loop
            # takes it back only from a request with which it ends.
            return result
        return AddReqResult.CONTINUE if self.may_pass(req, result) else result

    def _fits(self, req) -> bool:
        """Whether the turn would fit if nothing were kept."""
        tokens = _to_compute(req) + _answer_tokens(req) + self.per_req_token_overhead
        with self._lock_node(req.last_node):
            return tokens < self.rem_total_tokens

    def _reserve_rest(self, req) -> None:
        """Keep room for the chunks of a turn that are still to come, and for its answer.

        SGLang charges a chunk at a time, which is enough where a long turn has the steps to
        itself. Where short turns share them, they could fill the memory that its next chunk
        needs, and SGLang ends the process when a chunk finds none.
        """
        rest = len(req.full_untruncated_fill_ids) - req.extend_end
        self.memory_budget.total_offset += rest + _answer_tokens(req)

    def _select_prefill_admission(self, req, *, has_chunked_req: bool = False, **kwargs):
        admission = super()._select_prefill_admission(req, has_chunked_req=has_chunked_req, **kwargs)
        if isinstance(admission, AddReqResult) or not admission.is_chunked:
            return admission
        # SGLang tracks one turn in the middle of its prefill, and counts on that to have taken all of the step. Ours
        # leaves some of it to others.
        return AddReqResult.OTHER if has_chunked_req or self.new_chunked_req is not None else admission

    def _is_being_computed(self, req) -> bool:
        """Whether a prefill that is under way computes what this turn's own would begin with.

        One that waits for it finds it in the cache.
        """
        others = chain(*self.book.computing, self.can_run_list)
        beside = [other for other in others if _computes_after(other, req.last_node, req.prefix_len)]
        if not beside:
            return False
        begins = _at(req, req.prefix_len)
        return len(begins) == SHARED_TOKENS and any(
            _at(other, req.prefix_len) == begins
            and (other.extra_key, other.cache_salt) == (req.extra_key, req.cache_salt)
            for other in beside
        )

    def _least_s(self, req) -> float:
        """Seconds of the smallest prefill of the turn that is worth a place in the step."""
        return self.book.prefill.seconds(min(_to_compute(req), max(LEAST_TOKENS, self.page_size)), req.prefix_len)

    def _spend(self, req) -> None:
        """The turn was added, and takes its part of the time that decoding turns leave."""
        self._left_s -= self.book.prefill.seconds(req.extend_len, req.prefix_len)

    def _withhold(self, req) -> int:
        """Take what the turn may not have in one step out of the step's budget; how much."""
        most = most_tokens(req, self.book, self._left_s)
        if most is None or self.rem_chunk_tokens is None:
            return 0
        withheld = max(0, self.rem_chunk_tokens - max(self.page_size, most))
        self.rem_chunk_tokens -= withheld
        return withheld

    def may_pass(self, req, result) -> bool:
        """Whether to try the turns behind one that was rejected with ``result``."""
        self.short_of_memory |= result == AddReqResult.NO_TOKEN
        self.misses += 1
        if self.misses >= MAX_MISSES_PER_PASS:
            return False
        if result == AddReqResult.NO_TOKEN and self.book.arranged.withheld_from(req.rid) and self._fits(req):
            # It waits for contexts that are kept, and not for turns that run.
            self._mark(req.mars, "held_for_kept")
            if self.book.log is not None:
                self.book.log.write("held", self.book.now_s, [req.rid])
            return True
        req.mars.short_of_memory |= result == AddReqResult.NO_TOKEN
        if not self.book.policy.may_be_passed(waiting_view(req), self.book.now_s):
            self.book.counters["held_back_for_an_aged_turn"] += 1
            if self.book.log is not None:
                self.book.log.write("aged", self.book.now_s, [req.rid])
            return False
        self._skipped.append(req.mars)
        self._memory_is_awaited |= result == AddReqResult.NO_TOKEN
        return True

    def _pass_over(self) -> None:
        """One went ahead of those that were skipped."""
        for turn in self._skipped:
            self._mark(turn, "passed_over")
        self._skipped.clear()

    def _mark(self, turn: ReqTurn, what: str) -> None:
        """Note on the turn what happened to it, and count the turns to which it did."""
        self.book.counters[f"turns_{what}"] += not getattr(turn, what)
        setattr(turn, what, True)


def _computes_after(req, node, prefix_len: int) -> bool:
    """Whether the turn is in the middle of a prefill that began at this place in the tree."""
    return req.last_node == node and req.prefix_len == prefix_len and not (req.mars.answering or req.finished())


def _at(req, start: int):
    """What the turn's prompt goes on with."""
    return req.full_untruncated_fill_ids[start : start + SHARED_TOKENS]


def _to_compute(req) -> int:
    """Tokens of the turn's prompt that are not cached."""
    return len(req.full_untruncated_fill_ids) - req.prefix_len


def _answer_tokens(req) -> int:
    """Tokens of the answer still to come for which SGLang reserves room."""
    return min(max(req.sampling_params.max_new_tokens - len(req.output_ids), 0), CLIP_MAX_NEW_TOKENS)
