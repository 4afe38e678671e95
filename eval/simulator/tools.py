"""The CPU side in virtual time: slots in which tools run, and a queue before them (:mod:`eval.replay.executor`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from eval.simulator.events import Agenda
from mars_sglang.core.views import ToolsView

#: Weight of the newest call in the mean wait that the gate is told.
_WAIT_WEIGHT = 0.1


class ToolSlots:
    """Runs tools first come, first served, ``slots`` at a time; None for no limit.

    Raises:
        ValueError: fewer than one slot.
    """

    def __init__(self, slots: int | None, agenda: Agenda) -> None:
        if slots is not None and slots < 1:
            raise ValueError(f"tool_slots: {slots}; accepted: 1 or more, or None for no limit")
        self._slots = slots
        self._agenda = agenda
        self._queue: deque[tuple[float, float, Callable[[float], None]]] = deque()
        self._active = 0
        self._wait_s = 0.0
        self.busy_s = 0.0
        """Slot seconds used so far, by tools that ended."""

    def run(self, seconds: float, ended: Callable[[float], None]) -> None:
        """Hold a slot for ``seconds`` as soon as there is one; ``ended`` is told how long the wait for it was."""
        if self._slots is not None and self._active >= self._slots:
            self._queue.append((self._agenda.now, seconds, ended))
            return
        self._active += 1
        self._hold(0.0, seconds, ended)

    def view(self) -> ToolsView:
        """As hosts of tools report themselves to the gate."""
        return ToolsView(self._slots or 0, self._active, len(self._queue), self._wait_s)

    def _hold(self, waited_s: float, seconds: float, ended: Callable[[float], None]) -> None:
        self._wait_s += _WAIT_WEIGHT * (waited_s - self._wait_s)

        def over() -> None:
            self.busy_s += seconds
            if self._queue:
                # The slot goes on without becoming free, so that no newcomer can pass the queue.
                asked_s, next_seconds, next_ended = self._queue.popleft()
                self._hold(self._agenda.now - asked_s, next_seconds, next_ended)
            else:
                self._active -= 1
            ended(waited_s)

        self._agenda.at(self._agenda.now + seconds, over)
