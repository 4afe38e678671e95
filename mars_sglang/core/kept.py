"""Retained contexts that a turn has to leave alone, and the waiting turns that have to wait for that.

The context of a program inside a tool is kept from turns that rank behind it, for as long as the program is expected
back: their prefill would evict it, and it would soon be computed again in the place of theirs. Nothing is pinned. What
is kept stays evictable in the engine's books, goes when running turns or turns ranked ahead need the room, and never
keeps the engine idle for longer than it takes to compute it again.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import accumulate
from math import inf
from operator import itemgetter
from typing import Any, NamedTuple

from mars_sglang.core.views import TurnView

#: Waiting turns, from the front, of which each is told in a pass what it has to leave alone. Those behind leave all of
#: it alone.
LOOKED_AT = 64


#: Of a host tier, what live contexts can take: programs that are over leave theirs behind.
HOST_FILL = 0.9


def spare_tokens(capacity_tokens: int, host_tokens: int, host_copies: bool = True) -> int:
    """KV tokens that a host tier holds beyond what the GPU's pool does.

    Args:
        host_copies: whether it holds copies of what the GPU holds (SGLang's write-through).
    """
    host = round(HOST_FILL * host_tokens)
    return max(0, host - capacity_tokens) if host_copies else host


class Kept(NamedTuple):
    """For whom a policy keeps the context of a program inside a tool, and for how long."""

    rank: Any
    """Compares with what the policy's ``rank`` says of turns: those behind it leave the context alone."""
    until_s: float
    tokens: int
    """Of the context, without a prefix that others have too."""
    shared_tokens: int
    """That prefix."""
    again_s: float
    """Seconds to compute the context again."""


class KeptContexts:
    """Contexts by program. Costs are logarithmic in their number, but for one sum over all after a change."""

    def __init__(self) -> None:
        self._kept: dict[str, Kept] = {}
        self._ranked: list[tuple[Any, str]] = []
        """Of programs inside a tool."""
        self._asking: dict[str, Kept] = {}
        """Of programs that are back and wait for their prefill."""
        self._sums: list[int] | None = None
        self._shared_tokens = 0
        self._until: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, program: str, kept: Kept) -> None:
        """The program is inside a tool."""
        self.drop(program)
        self._kept[program] = kept
        entry = kept.rank, program
        self._ranked.insert(bisect_right(self._ranked, entry), entry)
        heappush(self._until, (kept.until_s, program))
        if len(self._until) > 2 * len(self._kept) + 64:
            self._until = sorted((kept.until_s, name) for name, kept in self._kept.items())
        self._sums = None

    def asks(self, program: str) -> None:
        """It is back: from now on its turn's place in the queue says who leaves its context alone."""
        kept = self._kept.get(program) or self._asking.get(program)
        if kept is not None:
            self.drop(program)
            self._asking[program] = kept

    def lose(self, program: str, tokens: int) -> None:
        """So many tokens of its context were evicted."""
        for table in (self._kept, self._asking):
            kept = table.get(program)
            if kept is not None:
                table[program] = kept._replace(tokens=max(0, kept.tokens - tokens))
                self._sums = None

    def drop(self, program: str) -> None:
        """Nothing of it is to be kept: it runs, it is over, or its context is gone."""
        self._asking.pop(program, None)
        kept = self._kept.pop(program, None)
        if kept is not None:
            del self._ranked[bisect_right(self._ranked, (kept.rank, program)) - 1]
            self._sums = None

    def clear(self) -> None:
        """Drop all."""
        self.__init__()

    def due(self, now_s: float) -> list[str]:
        """Programs whose time is over; they are dropped."""
        over: list[str] = []
        while self._until and self._until[0][0] <= now_s:
            until_s, program = heappop(self._until)
            kept = self._kept.get(program)
            if kept is not None and kept.until_s == until_s:
                self.drop(program)
                over.append(program)
        return over

    def own_tokens(self, program: str | None) -> int:
        """Of the context of a program that waits."""
        kept = self._asking.get(program)
        return 0 if kept is None else kept.tokens

    def ahead_of(self, rank: Any | None, idle_s: float = 0.0) -> int:
        """Tokens that a turn of this rank has to leave alone.

        Args:
            rank: None for one behind all.
            idle_s: for how long the engine has had nothing to run.
        """
        if not self._ranked:
            return 0
        if idle_s > 0:
            worth = [
                kept for kept_rank, program in self._ranked
                if (rank is None or kept_rank <= rank) and (kept := self._kept[program]).again_s > idle_s
            ]  # fmt: skip
            return sum(kept.tokens for kept in worth) + max((kept.shared_tokens for kept in worth), default=0)
        if self._sums is None:
            contexts = [self._kept[program] for _, program in self._ranked]
            self._sums = list(accumulate(kept.tokens for kept in contexts))
            self._shared_tokens = max(kept.shared_tokens for kept in contexts)
        count = len(self._ranked) if rank is None else bisect_right(self._ranked, rank, key=itemgetter(0))
        return self._sums[count - 1] + self._shared_tokens if count else 0

    def next_change_s(self, busy_s: float, now_s: float) -> float:
        """When the next of them is kept no longer, in an engine without anything to run since ``busy_s``; after
        ``now_s``. Walks all."""
        times = [busy_s + kept.again_s for kept in self._kept.values()] + [until_s for until_s, _ in self._until]
        # A little later, as sums of times are not exact.
        return min((time_s + 1e-6 for time_s in times if time_s + 1e-6 > now_s), default=inf)


class Arranged(NamedTuple):
    """A queue in the order in which its turns are tried."""

    order: list[int]
    """Indices of the turns: first those that can start beside what is kept."""
    withheld: dict[str, int]
    """Tokens that a turn has to leave alone, by turn id."""
    others: int
    """The same of turns that are not named, which are behind those that are."""

    def withheld_from(self, turn_id: str) -> int:
        """Tokens that this turn has to leave alone."""
        return self.withheld.get(turn_id, self.others)


#: What holds where nothing is kept.
NOTHING_KEPT = Arranged([], {}, 0)


def arrange(
    order: Sequence[int],
    turns: Sequence[TurnView],
    rank: Callable[[TurnView], Any],
    kept: KeptContexts,
    room: int,
    spare: int,
    idle_s: float,
) -> Arranged:
    """Put the turns that have to wait for kept contexts behind those that can start.

    A turn that waits keeps what the cache has of it from those behind it.

    Args:
        order: the policy's, as indices into ``turns``.
        rank: the policy's, of a turn.
        room: tokens that are free or could be evicted, kept contexts included.
        spare: of what is kept, tokens that a host tier holds too, so that evicting them loses nothing.
        idle_s: for how long the engine has had nothing to run.
    """
    can: list[int] = []
    waits: list[int] = []
    withheld: dict[str, int] = {}
    passed = 0
    for i in order[:LOOKED_AT]:
        turn = turns[i]
        tokens = withheld[turn.turn_id] = max(0, kept.ahead_of(rank(turn), idle_s) + passed - spare)
        # Of a context that its prompt does not continue it needs nothing.
        own = min(kept.own_tokens(turn.program), turn.context_tokens - turn.uncached_tokens)
        if turn.uncached_tokens + own + tokens < room:
            can.append(i)
        else:
            waits.append(i)
        passed += own
    others = max(0, kept.ahead_of(None, idle_s) + passed - spare)
    return Arranged([*can, *waits, *order[LOOKED_AT:]], withheld, others)
