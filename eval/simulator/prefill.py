"""Which waiting turns share the next prefill step: SGLang's ``PrefillAdder``, and ours over it. Page size 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, auto

from eval.simulator.cache import PrefixCache
from eval.simulator.host import LOAD_BACK_TOKENS
from eval.simulator.request import CLIP_NEW_TOKENS, Request
from mars_sglang.core.kept import NOTHING_KEPT, Arranged
from mars_sglang.core.policy import TurnPolicy
from mars_sglang.core.prefill_pass import MAX_MISSES_PER_PASS, PASSING_TOKENS, SHARED_TOKENS

#: SGLang's ``--max-prefill-tokens``, unless told otherwise.
MAX_PREFILL_TOKENS = 16384

#: One page is reserved for each turn beside its tokens.
_PAGE = 1


class Verdict(Enum):
    """Whether the next turn of the queue is tried."""

    CONTINUE = auto()
    NO_TOKEN = auto()
    OTHER = auto()


class PrefillAdder:
    """Adds turns to one prefill step until its tokens, or the pool's, are spent.

    The pool's budget is what is free or evictable, less the answers still to come of the turns that run and of
    those added.

    Args:
        running: turns that decode.
        chunk_tokens: of one step.
        one_chunk: whether a turn that needs a chunk is refused while another has one.
        evict: makes so many tokens free, as far as possible.
    """

    def __init__(
        self, cache: PrefixCache, running: Sequence[Request], chunk_tokens: int, one_chunk: bool,
        evict: Callable[[int], None],
    ) -> None:  # fmt: skip
        self._cache = cache
        self._one_chunk = one_chunk
        self._evict = evict
        self.chunk_left = chunk_tokens
        self._input_left = MAX_PREFILL_TOKENS
        self._reserved = sum(request.to_come for request in running)
        self._reserved_now = 0
        self.added: list[Request] = []
        self.new_chunked: Request | None = None
        self.loaded_tokens = 0
        """Of KV on its way from host memory."""

    @property
    def room(self) -> int:
        """Tokens that may still be promised."""
        return self._cache.free + self._cache.evictable - self._reserved

    def verdict(self) -> Verdict:
        """By what is left of the step's and the pool's tokens."""
        if self.room <= 0 or self._cache.free + self._cache.evictable <= self._reserved_now:
            return Verdict.NO_TOKEN
        return Verdict.OTHER if self._input_left <= 0 or self.chunk_left <= 0 else Verdict.CONTINUE

    def go_on(self, request: Request, limit: int | None) -> bool:
        """The next chunk of the turn that is in the middle of its prefill; whether it is still not the last.

        Args:
            limit: tokens of it in this step, at most; None for as many as there are.
        """
        tokens = min(self.chunk_left, self.room)
        if tokens <= 0:
            # SGLang lets it pass its budget, for only its end gives its KV back.
            tokens = min(self.chunk_left, self._cache.free + self._cache.evictable)
        tokens = min(tokens, limit or tokens, request.context - request.prefix)
        if tokens <= 0:
            return True
        unfinished = request.prefix + tokens < request.context
        self._add(request, tokens, 0 if unfinished else min(request.out_tokens, CLIP_NEW_TOKENS))
        return unfinished

    def add(self, request: Request, has_chunked: bool) -> Verdict:
        """Try the next turn of the queue, which was just looked up. It is in :attr:`added` if it fits.

        Args:
            has_chunked: whether a turn is in the middle of its prefill.
        """
        host_hit = request.host_hit
        if not self._fits(request):
            return Verdict.NO_TOKEN
        if self._chunk(request, host_hit, has_chunked) is None:
            return Verdict.OTHER
        if host_hit and not self._load_back(request):
            host_hit = 0
        extend = self._chunk(request, 0, has_chunked)
        if extend is None:
            return Verdict.OTHER
        self._cache.lock(request.last_node)
        request.locked_node, request.protected = request.last_node, request.prefix
        if request.cached_tokens is None:
            request.cached_tokens = request.prefix
        chunked = request.prefix + extend < request.context
        self._add(request, extend, 0 if chunked else min(request.out_tokens, CLIP_NEW_TOKENS))
        if chunked:
            self.new_chunked = request
        return self.verdict()

    def _fits(self, request: Request) -> bool:
        # The prefix found is not there to be evicted for its own turn.
        room = self.room - self._cache.unlocked_tokens(request.last_node)
        return request.context - request.prefix + request.to_come + _PAGE < room

    def _chunk(self, request: Request, host_hit: int, has_chunked: bool) -> int | None:
        """Tokens of the turn in this step; None where it has to wait for the chunk of another."""
        extend = request.context - request.prefix - host_hit
        if extend <= self.chunk_left:
            return extend
        if (has_chunked and self._one_chunk) or self.chunk_left <= 0:
            return None
        return self.chunk_left

    def _load_back(self, request: Request) -> bool:
        node, tokens = request.best_node, request.host_hit
        if tokens < LOAD_BACK_TOKENS:
            return False
        self._cache.lock(node)
        self._evict(tokens - self._cache.free)
        fits = self._cache.free >= tokens
        if fits:
            self._cache.load_back(node)
            request.last_node, request.prefix = node, node.end
            self.loaded_tokens += tokens
        self._cache.unlock(node)
        return fits

    def _add(self, request: Request, extend: int, to_come: int) -> None:
        request.scheduled_upto = request.prefix + extend
        self.added.append(request)
        self._reserved += extend + _PAGE + to_come
        self._reserved_now += extend + _PAGE
        self._input_left -= extend
        self.chunk_left -= extend


class SkippingAdder(PrefillAdder):
    """Under a policy of ours a turn that does not fit may be passed, and a turn gets at most its quantum."""

    def __init__(self, *args, policy: TurnPolicy, now_s: float, arranged: Arranged = NOTHING_KEPT) -> None:
        super().__init__(*args)
        self._policy = policy
        self._arranged = arranged
        self._now_s = now_s
        self._misses = 0
        self.short_of_memory = False
        """Whether a turn was refused for want of KV, which only a turn that leaves can change."""
        self._memory_is_awaited = False

    def go_on(self, request: Request, limit: int | None) -> bool:
        unfinished = super().go_on(request, limit)
        if unfinished:
            self._reserve_rest(request)
        return unfinished

    def add(self, request: Request, has_chunked: bool) -> Verdict:
        if self._is_being_computed(request):
            self._misses += 1
            return Verdict.CONTINUE if self._misses < MAX_MISSES_PER_PASS else Verdict.OTHER
        if self._memory_is_awaited and request.context - request.prefix > PASSING_TOKENS:
            return self._rejected(request, Verdict.OTHER, 0)
        withheld = self._withhold(request)
        kept = self._arranged.withheld_from(request.turn_id)
        self._reserved += kept
        verdict = super().add(request, has_chunked or self.new_chunked is not None)
        self._reserved -= kept
        if self.new_chunked is request:
            self._reserve_rest(request)
        added = bool(self.added) and self.added[-1] is request
        self.chunk_left += withheld
        if added:
            return self.verdict() if withheld or kept else verdict
        return verdict if verdict is Verdict.CONTINUE else self._rejected(request, verdict, kept)

    def _rejected(self, request: Request, verdict: Verdict, kept: int) -> Verdict:
        return Verdict.CONTINUE if self._may_pass(request, verdict, kept) else verdict

    def _is_being_computed(self, request: Request) -> bool:
        """As the engine's adder: a turn waits for one that computes what its own prefill would begin with."""
        start, end = request.prefix, request.prefix + SHARED_TOKENS
        return end <= request.context and any(
            other.locked_node is request.last_node
            and other.prefix == start
            and end <= other.context
            and request.text.shared(other.text.cut(start, end), start, end) == SHARED_TOKENS
            for other in self.added
        )

    def _reserve_rest(self, request: Request) -> None:
        """As the engine's adder: the chunks still to come and the answer of a turn in the middle of its prefill."""
        rest = request.context - max(request.scheduled_upto, request.prefix)
        self._reserved += rest + request.to_come

    def _withhold(self, request: Request) -> int:
        if not self._policy.cuts_prefills:
            return 0
        quantum = self._policy.quantum_tokens(request.waiting_view(), self._now_s)
        withheld = 0 if quantum is None else max(0, self.chunk_left - max(_PAGE, quantum))
        self.chunk_left -= withheld
        return withheld

    def _may_pass(self, request: Request, verdict: Verdict, kept: int) -> bool:
        self.short_of_memory |= verdict is Verdict.NO_TOKEN
        self._misses += 1
        if self._misses >= MAX_MISSES_PER_PASS:
            return False
        if kept and self._fits(request):
            # It waits for contexts that are kept, not for turns that run.
            return True
        may = self._policy.may_be_passed(request.waiting_view(), self._now_s)
        self._memory_is_awaited |= may and verdict is Verdict.NO_TOKEN
        return may


def chunk_limit(unfinished: Request, waiting: Sequence[Request], budget: int) -> int | None:
    """SGLang's ``shortest_prefill_chunk_limit``: what shorter turns leave of a step for the one that is mid-prefill.

    None where nothing is to be left.
    """
    if budget < 2 * _PAGE:
        return None
    remaining = unfinished.context - unfinished.prefix
    reserved = 0
    for request in waiting:
        work = max(1, request.context - request.matched_tokens)
        if work >= remaining or reserved + work > budget - _PAGE:
            break
        reserved += work
    return budget - reserved if reserved else None
