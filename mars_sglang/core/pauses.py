"""What is said of a pause: whose it is, how loaded its executor is, and when it is expected to end.

A pause is the time from the end of a turn to the program's next turn: a tool call, or a person.
All times are seconds; those of a forecast count from the start of the pause.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

BUCKETS_PER_DECADE = 20
"""12% wide, centred on the preferred numbers of ISO 3 (R20: 1, 1.12, 1.25, ...). Recorded times are often
rounded; an edge on a round value would let the last bit of a float decide the bucket."""

EDGES_S = np.concatenate(([0.0], 10.0 ** ((np.arange(-40, 121) - 0.5) / BUCKETS_PER_DECADE)))
"""Bucket ``i`` is ``(EDGES_S[i], EDGES_S[i + 1]]``: 10 ms, below which nothing can be decided, to 11 days."""
EDGES_S.flags.writeable = False
_EDGES = tuple(EDGES_S.tolist())
_WIDTHS = np.diff(EDGES_S)
BUCKETS = len(_WIDTHS)

_MAX_SLOWDOWN = 20.0
"""Past this a host is stuck rather than slow, and its past says nothing about when it comes back."""

_WAIT_POINTS = tuple(NormalDist().inv_cdf((i + 0.5) / 8) for i in range(8))
"""Normal scores of eight equally likely waits: they reach from the 6th to the 94th percentile."""


def bucket_of(seconds: float) -> int:
    """The bucket that a time falls into; ``BUCKETS`` when it is past all of them."""
    return max(0, bisect_left(_EDGES, seconds) - 1)


class PauseKey(NamedTuple):
    """What is known of a pause when it starts."""

    tool: str
    command: str | None = None
    """First word of a shell command."""
    program: str | None = None
    """Whose pause: agents differ in pace."""


@dataclass(frozen=True, slots=True)
class LoadAt:
    """What a loaded executor does to a pause: ``pause = wait + slowdown x unloaded pause``.

    The neutral load, of which nothing is known, is ``LoadAt()``.
    """

    wait_s: float = 0.0
    """Wait for a slot, from the start of the pause: the mean if it is still ahead, the actual one if known."""
    slowdown: float = 1.0
    completions: int = 0
    """Calls that have to end before this one starts, which tells how far the wait may be from its mean; 0: exact."""

    def __post_init__(self) -> None:
        if not 0 <= self.wait_s < math.inf:
            raise ValueError(f"LoadAt.wait_s is {self.wait_s!r}; accepted: seconds, 0 or more")
        if not 1 <= self.slowdown < math.inf:
            raise ValueError(f"LoadAt.slowdown is {self.slowdown!r}; accepted: 1 or more")
        if self.completions < 0:
            raise ValueError(f"LoadAt.completions is {self.completions!r}; accepted: a whole number, 0 or more")

    @classmethod
    def of_executor(
        cls,
        *,
        queued: int = 0,
        active: int = 0,
        slots: int | None = None,
        service_s: float | None = None,
        cores: float = 0.0,
        run_queue: float | None = None,
        cpu_pressure: float | None = None,
        throttled: float | None = None,
    ) -> "LoadAt":
        """From what a sidecar reports, for a call that arrives now; ``queued`` are those ahead of it.

        * Wait: with ``c`` slots busy and ``q`` calls ahead, ``q + 1`` calls have to end, one each
          ``service / c`` on average: a gamma distributed wait of shape ``q + 1`` (the conditional wait of an
          M/M/c queue; Kleinrock, "Queueing Systems" vol. 1, 1975, section 3.5).
        * Slowdown: ``run queue / cores`` under processor sharing, where it is known; else ``1 / (1 - s)`` for a
          share ``s`` of the time lost, by CPU pressure. Throttling loses time in the same way; the larger counts.
        """
        ahead = 0 if slots is None or not service_s else max(0, queued + 1 - max(0, slots - active))
        lost = [share for share in (None if run_queue else cpu_pressure, throttled) if share is not None]
        slowdown = max([1.0, *(1.0 / max(1.0 - share, 1.0 / _MAX_SLOWDOWN) for share in lost)])
        if run_queue and cores > 0:
            slowdown = max(slowdown, run_queue / cores)
        wait_s = ahead * service_s / slots if ahead else 0.0
        return cls(wait_s, min(slowdown, _MAX_SLOWDOWN), ahead)

    def waits_s(self) -> tuple[float, ...]:
        """Equally likely waits: one when it is exact, else eight of a gamma distribution.

        Wilson and Hilferty's cube-root approximation (PNAS 17, 1931), scaled to keep the mean.
        """
        if not self.completions or not self.wait_s:
            return (self.wait_s,)
        ninth = 1.0 / (9.0 * self.completions)
        roots = (max(0.0, 1.0 - ninth + z * math.sqrt(ninth)) for z in _WAIT_POINTS)
        cubes = [root**3 for root in roots]
        scale = self.wait_s * len(cubes) / sum(cubes)
        return tuple(cube * scale for cube in cubes)


NO_LOAD = LoadAt()


@dataclass(frozen=True, slots=True)
class PauseForecast:
    """The distribution of a pause that has lasted ``elapsed_s`` already.

    Between the edges of buckets it is taken for uniform.
    """

    elapsed_s: float
    key: str
    """The finest of command, tool and ``*`` (everything) that has more say than what is coarser; ``prior``
    where nothing was learned."""
    at_edges: np.ndarray = field(repr=False, compare=False)
    """``P(T > EDGES_S[i])`` of the whole pause, shape ``(BUCKETS + 1,)``; 1 at 0, never rising, above 0."""

    def survival(self, seconds: float) -> float:
        """``P(T > seconds | T > elapsed)``; past the last edge what is left never ends."""
        if seconds <= self.elapsed_s:
            return 1.0
        return self._at(seconds) / self._at(self.elapsed_s)

    def probability_within(self, horizon_s: float) -> float:
        """That the program returns within ``horizon_s`` of now."""
        return 1.0 - self.survival(self.elapsed_s + horizon_s)

    def dormant(self, horizon_s: float, below: float) -> bool:
        """Whether the silence is unlikely to end soon: back within the horizon with less than this probability."""
        return self.probability_within(horizon_s) < below

    def quantile(self, probability: float) -> float:
        """By when it has returned with this probability; infinite where that is never.

        Raises:
            ValueError: not a probability in ``[0, 1)``.
        """
        if not 0 <= probability < 1:
            raise ValueError(f"probability: {probability!r}; accepted: 0 or more, below 1")
        target = (1.0 - probability) * self._at(self.elapsed_s)
        i = int(np.searchsorted(-self.at_edges, -target))
        if i > BUCKETS:
            return math.inf
        if i == 0:
            return self.elapsed_s
        high, low = self.at_edges[i - 1], self.at_edges[i]
        within = (high - target) / (high - low)
        return max(self.elapsed_s, _EDGES[i - 1] + float(within) * (_EDGES[i] - _EDGES[i - 1]))

    def expected_held_s(self, deadline_s: float) -> float:
        """``E[min(T, deadline) - elapsed | T > elapsed]``: how long memory kept until then is held from now on."""
        if deadline_s <= self.elapsed_s:
            return 0.0
        return (self._area(deadline_s) - self._area(self.elapsed_s)) / self._at(self.elapsed_s)

    def deadline_s(self, worth_s: float) -> float:
        """Until when to keep what costs 1 per second and ``worth_s`` to make again; ``elapsed_s`` for not at all.

        Minimises ``E[min(T, d) - elapsed] + worth P(T > d)`` over the edges of buckets. As what is known changes only
        by the pause's going on, later looks agree with the first.
        """
        first = bisect_left(_EDGES, self.elapsed_s)
        if first > BUCKETS or worth_s <= 0:
            return self.elapsed_s
        areas = np.cumsum((self.at_edges[:-1] + self.at_edges[1:]) * _WIDTHS)[first - 1 if first else 0 :] * 0.5
        loss = areas + worth_s * self.at_edges[max(first, 1) :]
        best = int(np.argmin(loss))
        now = self._area(self.elapsed_s) + worth_s * self._at(self.elapsed_s)
        return self.elapsed_s if now <= loss[best] else _EDGES[max(first, 1) + best]

    def _at(self, seconds: float) -> float:
        i = bucket_of(seconds)
        if i >= BUCKETS:
            return float(self.at_edges[-1])
        high, low = float(self.at_edges[i]), float(self.at_edges[i + 1])
        return high - (high - low) * (seconds - _EDGES[i]) / (_EDGES[i + 1] - _EDGES[i])

    def _area(self, seconds: float) -> float:
        """``E[min(T, seconds)]``."""
        i = min(bucket_of(seconds), BUCKETS)
        whole = 0.5 * float(((self.at_edges[:i] + self.at_edges[1 : i + 1]) * _WIDTHS[:i]).sum())
        return whole + 0.5 * (float(self.at_edges[i]) + self._at(seconds)) * (seconds - _EDGES[i])
