"""Time as a replay sees it: emulated seconds, from the project's one clock."""

from __future__ import annotations

import asyncio
from typing import Protocol

from mars_sglang import clock


class Clock(Protocol):
    """What a replay needs of time; tests bring one that does not wait."""

    def now(self) -> float:
        """Emulated seconds since an arbitrary start."""

    async def sleep(self, seconds: float) -> None:
        """Waits for ``seconds`` emulated seconds."""


class ServerClock:
    """The clock that the emulated server runs on too; real time where nothing is emulated."""

    def now(self) -> float:
        return clock.now()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / clock.speed())


def real_seconds(emulated: float) -> float:
    """How long ``emulated`` seconds take on this machine."""
    return emulated / clock.speed()
