"""SGLang's prefill adder, except that a turn that does not fit need not stop those behind it."""

from sglang.srt.managers.schedule_policy import CLIP_MAX_NEW_TOKENS, AddReqResult, PrefillAdder

from mars_sglang.engine.turn_queue import quantum_tokens, waiting_view
from mars_sglang.engine.turns import TurnBook

#: Turns that are tried and found not to fit in one pass. Each costs a match of its prefix.
MAX_MISSES_PER_PASS = 8

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
        self.short_of_memory = False
        """Whether a turn was skipped for want of KV, which only a leaving turn can change."""
        self.book.counters["prefill_passes"] += 1

    def add_chunked_req(self, req):
        unfinished = super().add_chunked_req(req)
        if unfinished is not None:
            self._reserve_rest(unfinished)
        return unfinished

    def add_one_req(self, req, has_chunked_req, truncation_align_size):
        withheld = self._withhold(req)
        kept = self.book.arranged.withheld_from(req.rid)
        self.memory_budget.total_offset += kept
        result = super().add_one_req(req, has_chunked_req, truncation_align_size)
        self.memory_budget.total_offset -= kept
        if self.new_chunked_req is req:
            self._reserve_rest(req)
        if withheld:
            self.rem_chunk_tokens += withheld
        if (withheld or kept) and self.can_run_list and self.can_run_list[-1] is req:
            # What is left of the step for those behind, and not for this turn.
            result = self.budget_state()
        if _LOOP_ASKS or result == AddReqResult.CONTINUE or self.is_hybrid_ssm_cache:
            # A mamba tree hands the request a state slot before this call, and the loop
            # takes it back only from a request with which it ends.
            return result
        added = bool(self.can_run_list) and self.can_run_list[-1] is req
        # The loop ends with a request whose result is another, and the next is not tried.
        return AddReqResult.CONTINUE if not added and self.may_pass(req, result) else result

    def _fits(self, req) -> bool:
        """Whether the turn would fit if nothing were kept."""
        rest = len(req.full_untruncated_fill_ids) - req.prefix_len
        tokens = rest + _answer_tokens(req) + self.per_req_token_overhead
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

    def _withhold(self, req) -> int:
        """Take what is beyond the turn's quantum out of the step's budget; how much."""
        quantum = quantum_tokens(req, self.book)
        if quantum is None or self.rem_chunk_tokens is None:
            return 0
        withheld = max(0, self.rem_chunk_tokens - max(self.page_size, quantum))
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
            self.book.counters["held_for_kept"] += 1
            if self.book.log is not None:
                self.book.log.write("held", self.book.now_s, [req.rid])
            return True
        if not self.book.policy.may_be_passed(waiting_view(req), self.book.now_s):
            self.book.counters["held_back_for_an_aged_turn"] += 1
            if self.book.log is not None:
                self.book.log.write("aged", self.book.now_s, [req.rid])
            return False
        self.book.counters["passed_over"] += 1
        return True

    @property
    def has_one_chunk_in_flight(self) -> bool:
        # Ours is the sharing of chunks that this stands for, whatever the policy's name.
        return True


def _answer_tokens(req) -> int:
    """Tokens of the answer still to come for which SGLang reserves room."""
    return min(max(req.sampling_params.max_new_tokens - len(req.output_ids), 0), CLIP_MAX_NEW_TOKENS)
