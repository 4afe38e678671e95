"""Times functions in turn, so that a drift of the machine's speed meets them all.

The time is CPU time of the calling thread: of other processes only what they do to the caches is in it. The garbage
collector runs as it does in a server, because what is allocated has to be paid for.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

#: One call that takes longer is the whole round, and its series is not measured at larger sizes.
LONG_S = 0.4
_MOST_CALLS = 2000


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Raises:
        ValueError: fewer than one round.
    """

    rounds: int = 5
    round_s: float = 0.02
    """CPU seconds of one function in one round, about."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds: {self.rounds}; accepted: 1 or more")


@dataclass(frozen=True)
class Contender:
    """Something to be timed."""

    run: Callable[[], object]
    restore: Callable[[], object] | None = None
    """Called after each ``run`` and not timed; each run is then timed by itself."""
    cycle: int = 1
    """Calls after which the cost repeats: a round is whole cycles, and what is reported their mean."""
    items: int = 1
    """Things that one call does: the time is per thing."""
    calls: int | None = None
    """Calls of one round, without any before the first; None: as many as make a round."""


def measure(contenders: Mapping[Key, Contender], effort: Effort) -> dict[Key, list[float]]:
    """Microseconds of CPU time per thing done, one mean per round."""
    return {
        key: [statistics.fmean(calls) for calls in rounds] for key, rounds in measure_calls(contenders, effort).items()
    }


def measure_calls(contenders: Mapping[Key, Contender], effort: Effort) -> dict[Key, list[list[float]]]:
    """Microseconds of CPU time per thing done: of each call of a round where calls are timed by themselves, else the
    round's mean."""
    gc.collect()
    calls = {key: contender.calls or _calls(contender, effort.round_s) for key, contender in contenders.items()}
    taken: dict[Key, list[list[float]]] = {key: [] for key in contenders}
    order = list(contenders)
    for index in range(effort.rounds):
        # Forth and back: nobody always runs behind the same other.
        for key in order if index % 2 else order[::-1]:
            contender = contenders[key]
            taken[key].append([s / contender.items * 1e6 for s in _block(contender, calls[key])])
    return taken


def is_long(rounds: list[float]) -> bool:
    """Whether a call, in microseconds, took so long that its series is not measured at larger sizes."""
    return min(rounds) / 1e6 > LONG_S


def _calls(contender: Contender, round_s: float) -> int:
    """How many make a round. The calls it takes to know are the warm-up."""
    began = time.thread_time()
    _block(contender, 1)
    (once_s,) = _block(contender, 1)
    if time.thread_time() - began > 2 * LONG_S:
        return 1
    wanted = min(_MOST_CALLS, int(round_s / max(once_s, 1e-7)) + 1)
    return -(-wanted // contender.cycle) * contender.cycle


def _block(contender: Contender, calls: int) -> list[float]:
    """CPU seconds of each call, or their mean where they are timed together."""
    run, restore, clock = contender.run, contender.restore, time.thread_time
    if restore is None:
        began = clock()
        for _ in range(calls):
            run()
        return [(clock() - began) / calls]
    taken: list[float] = []
    for _ in range(calls):
        began = clock()
        run()
        taken.append(clock() - began)
        restore()
    return taken
