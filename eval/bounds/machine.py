"""One machine that serves preemptible jobs: how soon the first, the second, ... of them can be done."""

from __future__ import annotations

import heapq

import numpy as np

_BANDS = 256
"""Times at which the set of jobs that can be done by then is taken anew. Fewer make the bound weaker, never wrong."""


def shortest_first(release_s: np.ndarray, size_s: np.ndarray) -> np.ndarray:
    """Sorted completion times under shortest remaining processing time (Schrage 1968).

    No schedule of one machine of speed 1, sharing included, has more jobs done at any time, so the k-th entry is the
    least time of a k-th completion. Jobs of size 0 are done at their release.
    """
    order = np.argsort(release_s, kind="stable").tolist()
    release, size = release_s.tolist(), size_s.tolist()
    done: list[float] = []
    waiting: list[float] = []
    now = 0.0
    coming = 0
    while coming < len(order) or waiting:
        if not waiting:
            now = max(now, release[order[coming]])
        while coming < len(order) and release[order[coming]] <= now:
            heapq.heappush(waiting, size[order[coming]])
            coming += 1
        until = release[order[coming]] if coming < len(order) else float("inf")
        left = heapq.heappop(waiting)
        if now + left <= until:
            now += left
            done.append(now)
        else:
            heapq.heappush(waiting, left - (until - now))
            now = until
    return np.array(done)


def earliest_completions(release_s: np.ndarray, size_s: np.ndarray, earliest_s: np.ndarray) -> np.ndarray:
    """As :func:`shortest_first`, where besides no job can be done before its own time in ``earliest_s``.

    Whatever is done by a time t had its earliest time before t. So the machine may be given those jobs alone, and the
    k-th completion lies, for one of the bands of time between two marks, neither before the band begins nor before the
    k-th completion of the jobs that can be done within it.
    """
    ranked = np.sort(earliest_s)
    marks = np.unique(ranked[np.linspace(0, len(ranked) - 1, min(_BANDS, len(ranked))).astype(int)])
    soonest = np.full(len(ranked), np.inf)
    for begin, end in zip(marks, [*marks[1:], np.inf], strict=True):
        inside = earliest_s < end
        completions = shortest_first(release_s[inside], size_s[inside])
        count = len(completions)
        soonest[:count] = np.minimum(soonest[:count], np.maximum(begin, completions))
    return soonest
