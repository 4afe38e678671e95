"""The waiting queue: what is looked up in the cache before each pass, and the order it gets."""

from __future__ import annotations

from eval.simulator.cache import PrefixCache
from eval.simulator.native import MATCHED_AT_MOST, NativeTurns, QueueFacts
from eval.simulator.request import Request
from eval.simulator.text import Text
from mars_sglang.core.kept import NOTHING_KEPT, KeptContexts, arrange
from mars_sglang.core.policy import TurnPolicy

#: Under a policy of ours: waiting turns looked up anew in a pass, from the front (``mars_sglang.engine.turn_queue``).
REMATCHED_PER_PASS = 8

#: Under an order that looks nothing up, every so many passes SGLang marks what waits as used (for LRU only).
_REFRESH_EVERY = 32

#: A cached prefix up to this long counts as none, and a shared one from this long on as worth waiting for
#: (``IN_BATCH_PREFIX_CACHING_*_THRESHOLD``).
_IN_BATCH_TOKENS = 32


def look_up(cache: PrefixCache, request: Request, limit: int) -> None:
    """Find the cached prefix among the first ``limit`` tokens, and note it on the request."""
    node = request.hint = request.best_node = cache.match(request.text, limit, request.hint)
    request.last_node = cache.on_device(node)
    request.prefix = request.last_node.end
    request.host_hit = node.end - request.prefix
    request.matched_tokens = min(node.end, request.context - 1)
    request.matched = True
    request.view = None


class WaitingQueue:
    """Turns that wait for their prefill, in the order of the last pass."""

    def __init__(self, cache: PrefixCache, policy: TurnPolicy) -> None:
        self.turns: list[Request] = []
        self._cache = cache
        self._policy = policy
        self._unsorted_passes = 0
        self.arranged = NOTHING_KEPT
        """What turns have to leave alone, as of the last pass."""

    def sort(
        self, now_s: float, prefilled_tokens: int, kept: KeptContexts | None = None, spare_tokens: int = 0,
        idle_s: float = 0.0,
    ) -> None:  # fmt: skip
        """Order the queue for one pass.

        Args:
            prefilled_tokens: by the engine, so far.
            kept: what turns have to leave alone; None under an order of SGLang's.
            spare_tokens: of that, what a host tier holds too.
            idle_s: for how long the engine has had nothing to run.
        """
        if not self.turns:
            return
        if isinstance(self._policy, NativeTurns):
            if not self._policy.looks_up(len(self.turns)):
                self._refresh()
                return
            self._look_up_all(self._policy, prefilled_tokens)
        else:
            for place, request in enumerate(self.turns):
                if place < REMATCHED_PER_PASS or not request.matched:
                    look_up(self._cache, request, request.context)
        views = [request.waiting_view() for request in self.turns]
        order = self._policy.order_turns(views, now_s)
        if kept is not None and len(kept):
            room = self._cache.free + self._cache.evictable
            self.arranged = arrange(
                order, views, lambda turn: self._policy.rank(turn, now_s), kept, room, spare_tokens, idle_s
            )
            order = self.arranged.order
        else:
            self.arranged = NOTHING_KEPT
        self.turns = [self.turns[i] for i in order]

    def _refresh(self) -> None:
        if self._unsorted_passes % _REFRESH_EVERY == 0 and self._cache.order.tlru is None:
            for request in reversed(self.turns[:MATCHED_AT_MOST]):
                request.hint = self._cache.match(request.text, request.context, request.hint)
        self._unsorted_passes += 1

    def _look_up_all(self, policy: NativeTurns, prefilled_tokens: int) -> None:
        facts = QueueFacts()
        cold: dict[object, list[Text]] = {}
        for request in self.turns:
            look_up(self._cache, request, request.context)
            facts.waited_tokens[request.turn_id] = prefilled_tokens - request.queue_mark
            if request.prefix <= _IN_BATCH_TOKENS:
                alike = cold.setdefault(request.text.at(0), [])
                if any(_share(request, other) for other in alike):
                    facts.deferred.add(request.turn_id)
                else:
                    alike.append(Text(request.text.cut(0, request.context)))
        policy.facts = facts


def _share(request: Request, other: Text) -> bool:
    limit = min(request.context, len(other), _IN_BATCH_TOKENS)
    return limit == _IN_BATCH_TOKENS and other.shared(request.text.cut(0, limit), 0, limit) >= _IN_BATCH_TOKENS
