"""What happens when: a heap of calls in virtual time."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable


class Agenda:
    """Calls at times; those at the same time in the order in which they were entered."""

    def __init__(self) -> None:
        self.now = 0.0
        """Time of the call that is being made, or was last."""
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._entered = 0

    def at(self, time_s: float, call: Callable[[], None]) -> None:
        """Enter a call; one for a time that is over is made at once after what is due."""
        self._entered += 1
        heapq.heappush(self._heap, (time_s, self._entered, call))

    @property
    def next_s(self) -> float:
        """Time of the next call; infinite if there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def run_due(self, until: float) -> None:
        """Make every call up to and at ``until``, those included that the calls enter."""
        while self._heap and self._heap[0][0] <= until:
            time_s, _, call = heapq.heappop(self._heap)
            self.now = max(self.now, time_s)
            call()
