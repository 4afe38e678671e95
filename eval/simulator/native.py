"""SGLang's own orders of the waiting queue (``SchedulePolicy``), as turn policies.

Each sorts the queue as it stands, so what a sort leaves equal keeps the order of the pass before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mars_sglang.core.policy import BaseTurnPolicy
from mars_sglang.core.views import TurnView

#: Waiting turns above which lpm and hrrn become fcfs (``WAITING_QUEUE_PREFIX_MATCH_MAX``).
MATCHED_AT_MOST = 128


@dataclass
class QueueFacts:
    """What SGLang's orders look at beside the turns themselves."""

    deferred: set[str] = field(default_factory=set)
    """Turns, by id, that would compute the same prefix as one before them in the queue."""
    waited_tokens: dict[str, int] = field(default_factory=dict)
    """Tokens that the engine prefilled since the turn was queued."""


class NativeTurns(BaseTurnPolicy):
    """Base of SGLang's orders. Victims and reclaiming are those of the base class, which are SGLang's."""

    name: str
    cache_aware = False
    """Whether every waiting turn is looked up in the cache before the queue is sorted."""
    gives_up = False
    """Whether a long queue is left as it is."""
    shares_chunks = False
    """Whether a long prefill's chunk leaves room for shorter ones (``shortest_prefill_chunk_limit``)."""

    def __init__(self) -> None:
        self.facts = QueueFacts()

    def looks_up(self, waiting: int) -> bool:
        """Whether a queue of this length is looked up and sorted."""
        return self.cache_aware and not (self.gives_up and waiting > MATCHED_AT_MOST)


class Fcfs(NativeTurns):
    """The queue as it is; a retracted turn is at its end."""

    name = "fcfs"

    def order_turns(self, turns: Sequence[TurnView], now_s: float) -> list[int]:
        return list(range(len(turns)))


class LongestPrefix(NativeTurns):
    """The longest cached prefix first."""

    name = "lpm"
    cache_aware = gives_up = True

    def order_turns(self, turns: Sequence[TurnView], now_s: float) -> list[int]:
        deferred = self.facts.deferred

        def key(i: int):
            turn = turns[i]
            return turn.turn_id in deferred, turn.uncached_tokens - turn.context_tokens

        # Deferred ones are equal to each other, as in SGLang.
        return sorted(range(len(turns)), key=lambda i: (True, 0) if key(i)[0] else key(i))


class HighestResponseRatio(NativeTurns):
    """Tokens prefilled while it waited over tokens to prefill, the highest first."""

    name = "hrrn"
    cache_aware = gives_up = True

    def order_turns(self, turns: Sequence[TurnView], now_s: float) -> list[int]:
        facts = self.facts

        def key(i: int):
            turn = turns[i]
            if turn.turn_id in facts.deferred:
                return float("inf"), turn.turn_id
            return -facts.waited_tokens.get(turn.turn_id, 0) / turn.uncached_tokens, turn.turn_id

        return sorted(range(len(turns)), key=key)


class ShortestPrefill(NativeTurns):
    """The fewest tokens to prefill first."""

    name = "shortest-prefill-first"
    cache_aware = shares_chunks = True

    def order_turns(self, turns: Sequence[TurnView], now_s: float) -> list[int]:
        deferred = self.facts.deferred

        def key(i: int):
            turn = turns[i]
            return turn.turn_id in deferred, turn.uncached_tokens, turn.arrived_s

        return sorted(range(len(turns)), key=key)


_NATIVE = {policy.name: policy for policy in (Fcfs, LongestPrefix, HighestResponseRatio, ShortestPrefill)}


def native_policy(name: str) -> NativeTurns:
    """A new policy object.

    Raises:
        ValueError: no order of SGLang's that is modelled; the message lists those.
    """
    if name not in _NATIVE:
        raise ValueError(f"turn: {name!r} is no order of SGLang's that is modelled; accepted: {', '.join(_NATIVE)}")
    return _NATIVE[name]()
