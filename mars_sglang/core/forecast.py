"""What is to come of a program, from its own turns and from those of programs that began like it."""

from dataclasses import dataclass

from mars_sglang.core.dormancy import kind_of, prefill_s
from mars_sglang.core.remaining import RemainingTurns
from mars_sglang.core.views import PoolView, ProgramHistory, ProgramView

#: Turns of its own that a program's means weigh against those of its kind, and a kind's against all. Simulations of
#: the foundation: any small number.
SHRINK = 4.0

#: Turns that a client can announce, at most.
TURNS_MAX = 10_000.0

#: Engine seconds that a program is charged at most where programs are put in order, so that the order has a bound.
INDEX_MAX_S = 300.0

#: Turns over which a kind's means look back: old ones fade, so a change of the workload shows.
_WINDOW = 1024

#: Pauses and ends after which what was learned changes what is expected of programs that did nothing.
_RENEWED = 128

#: Assumed until turns were seen: tokens of growth and seconds in the order of the shared SWE-bench traces.
_GROWTH_TOKENS, _BUSY_S, _GAP_S = 600.0, 5.0, 2.0


@dataclass(frozen=True, slots=True)
class Rest:
    """What is expected of a program from now on."""

    turns: float
    """To come, the one that waits or runs included."""
    growth_tokens: float
    """Of its context, each turn."""
    busy_s: float
    """In the engine, each turn."""
    gap_s: float
    """Pause behind each turn."""


def engine_s(p: ProgramView, rest: Rest, pool: PoolView) -> float:
    """Seconds of the engine for all turns to come, where the whole memory for a second counts as a second: what is new
    in each is prefilled, and the context held. What is to be computed again first is not in it."""
    context = p.context_tokens + rest.turns * rest.growth_tokens / 2
    share = context / pool.capacity_tokens
    # A pause that costs more to hold than to compute again will not be held.
    held_s = share * rest.busy_s + min(share * rest.gap_s, prefill_s(context, pool))
    new_s = prefill_s(context + rest.growth_tokens, pool) - prefill_s(context, pool)
    return rest.turns * (new_s + held_s)


@dataclass(slots=True)
class _Means:
    """Fading means over the turns of one kind of program."""

    samples: float = 0.0
    growth: float = 0.0
    busy: float = 0.0
    gap: float = 0.0

    def add(self, growth: float, busy: float, gap: float) -> None:
        self.samples = min(self.samples + 1, _WINDOW)
        weight = 1 / self.samples
        self.growth += weight * (growth - self.growth)
        self.busy += weight * (busy - self.busy)
        self.gap += weight * (gap - self.gap)


class Forecast:
    """Means of a program's own turns, shrunk to those of its kind, and these to those of all programs; turns to come
    from :class:`RemainingTurns`, or from its client, where that says them."""

    def __init__(self):
        self._all = _Means()
        self._kinds: dict[int, _Means] = {}
        self._remaining = RemainingTurns()
        self._heard = 0

    @property
    def version(self) -> int:
        """Goes up when what is expected of a view that stays as it is had better be asked for again."""
        return self._heard // _RENEWED

    def observe_pause(self, p: ProgramView, seconds: float) -> None:
        """Learn from a program that came back after so many seconds."""
        h = p.history
        if h is None:
            return
        self._remaining.observe_turn(p)
        self._heard += 1
        growth = h.grown_tokens / (h.turns - 1) if h.turns > 1 else None
        for means in (self._all, self._kinds.setdefault(kind_of(p), _Means())):
            means.add(means.growth if growth is None else growth, h.busy_s / h.turns, seconds)

    def observe_over(self, p: ProgramView, said: bool) -> None:
        """Learn from a program that is over: its client ``said`` so, or it seems to be."""
        self._heard += 1
        self._remaining.observe_over(p, said)

    def rest(self, p: ProgramView) -> Rest:
        """Of a program that is not over."""
        every, kind = self._all, self._kinds.get(kind_of(p), _NONE)
        h = p.history or _NEW

        def mean(total: float, count: float, own: float, all_: float, initial: float) -> float:
            base = (all_ * every.samples + SHRINK * initial) / (every.samples + SHRINK)
            base = (own * kind.samples + SHRINK * base) / (kind.samples + SHRINK)
            return (total + SHRINK * base) / (count + SHRINK)

        growth = mean(h.grown_tokens, max(0, h.turns - 1), kind.growth, every.growth, _GROWTH_TOKENS)
        busy = mean(h.busy_s, h.turns, kind.busy, every.busy, _BUSY_S)
        gap = mean(h.paused_s, h.pauses, kind.gap, every.gap, _GAP_S)
        said = p.remaining_turns
        # One that goes on after its last turn, as it said, is believed no more.
        turns = min(said, TURNS_MAX) if said is not None and said > 0 else self._remaining.predict(p)
        return Rest(max(1.0, turns), growth, busy, gap)


_NONE = _Means()
_NEW = ProgramHistory(0, 0, 0, 0.0, 0, 0.0)
