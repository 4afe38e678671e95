"""The CPU side of a program: a fixed number of slots in which tools run, and a queue before them."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from eval.replay.timing import Clock


@dataclass(frozen=True, slots=True)
class ToolTime:
    """Emulated seconds that one tool call waited for a slot, and then ran."""

    wait_s: float
    run_s: float


class ToolExecutor:
    """Runs tools first come, first served, ``slots`` at a time; without slots, all at once."""

    def __init__(self, slots: int | None, clock: Clock) -> None:
        if slots is not None and slots < 1:
            raise ValueError(f"slots: {slots}; accepted: 1 or more, or None for no limit")
        self._free = slots
        self._clock = clock
        self._queue: deque[asyncio.Future[None]] = deque()
        self.running = 0
        self.busy_s = 0.0
        """Slot seconds used so far, by tools that ended."""

    @property
    def queued(self) -> int:
        """Tools that wait for a slot now."""
        return len(self._queue)

    async def run(self, seconds: float) -> ToolTime:
        """Waits for a slot, holds it for ``seconds`` emulated seconds."""
        asked = self._clock.now()
        await self._take()
        started = self._clock.now()
        self.running += 1
        try:
            await self._clock.sleep(seconds)
        finally:
            self.running -= 1
            self.busy_s += self._clock.now() - started
            self._give()
        return ToolTime(started - asked, self._clock.now() - started)

    async def _take(self) -> None:
        if self._free is None:
            return
        if self._free > 0:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # Cancelled after the slot was handed over: pass it on, or it would be lost.
            if turn.done() and not turn.cancelled():
                self._give()
            else:
                self._queue.remove(turn)
            raise

    def _give(self) -> None:
        if self._free is None:
            return
        if self._queue:
            # The slot goes to the first in the queue without becoming free, so that no newcomer can pass it.
            self._queue.popleft().set_result(None)
        else:
            self._free += 1
