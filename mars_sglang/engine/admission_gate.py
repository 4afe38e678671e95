"""The admission gate around asyncio: turns wait here until the core's gate lets them through."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from mars_sglang import clock
from mars_sglang.core.gate import Gate, GateDecision

logger = logging.getLogger(__name__)

#: How often the gate decides while something waits, in real seconds: silence of programs
#: passes without an event.
TICK_S = 0.25
#: How often a waiting turn looks whether its client is still there, in real seconds. SGLang
#: looks every 4 s at a turn that waits in the scheduler.
DISCONNECT_POLL_S = 1.0


class TurnAborted(ValueError):
    """The turn was aborted, or its client went away, while it waited at the gate."""


class AdmissionGate:
    """Holds turns of programs that may not start yet.

    One per server process, on its event loop. If deciding ever fails, everything that is
    held goes through, and so does what comes after: serving does not depend on the gate.

    Args:
        gate: the bookkeeping.
        decided: told of each run of the policy, at the time that the policy was given.
    """

    def __init__(self, gate: Gate, decided: Callable[[float, GateDecision], None] = lambda now_s, decision: None):
        self.gate = gate
        self._decided = decided
        self._held: dict[str, asyncio.Future[None]] = {}
        self._ticking: asyncio.Task | None = None
        self._broken = False

    def paused(self) -> tuple[str, ...]:
        """Programs that gave up their place inside a tool."""
        return tuple(self.gate.paused())

    async def enter(
        self,
        program: str | None,
        turn_id: str,
        prompt_tokens: int,
        is_disconnected: Callable[[], Awaitable[bool]] | None = None,
        now_s: float | None = None,
    ) -> None:
        """Return when the turn may go to the scheduler. :meth:`leave` has to follow in any case.

        Raises:
            TurnAborted: aborted while waiting, or the client went away.
        """
        if self._broken or self.gate.submit(program, turn_id, prompt_tokens, _or_now(now_s)):
            return
        future = self._held[turn_id] = asyncio.get_running_loop().create_future()
        self._decide()
        self._keep_ticking()
        try:
            while not future.done():
                await asyncio.wait({future}, timeout=DISCONNECT_POLL_S)
                if not future.done() and is_disconnected is not None and await is_disconnected():
                    raise TurnAborted("the client went away while its turn waited for admission")
            future.result()
        finally:
            self._held.pop(turn_id, None)

    def leave(
        self,
        program: str | None,
        turn_id: str,
        context_tokens: int | None = None,
        last: bool = False,
        now_s: float | None = None,
        cached_tokens: int | None = None,
        output_tokens: int = 0,
    ) -> None:
        """The turn ended, failed or was given up; arguments as :meth:`Gate.finish`."""
        if self._broken:
            return
        self.gate.finish(program, turn_id, _or_now(now_s), context_tokens, last, cached_tokens, output_tokens)
        self._decide()

    def end(self, program: str) -> bool:
        """The program is over or dormant; as :meth:`Gate.end`. :meth:`refill` has to follow."""
        return not self._broken and self.gate.end(program)

    def refill(self) -> None:
        """Let in who fits now."""
        if not self._broken:
            self._decide()

    def abort(self, turn_id: str | None) -> bool:
        """Give up a waiting turn, or all of them (None). Whether there was one."""
        aborted = [self._held[turn_id]] if turn_id in self._held else []
        if turn_id is None:
            aborted = list(self._held.values())
        for future in aborted:
            if not future.done():
                future.set_exception(TurnAborted("the turn was aborted while it waited for admission"))
        return bool(aborted)

    def _decide(self) -> None:
        now_s = clock.now()
        try:
            decision = self.gate.decide(now_s)
            if decision is None:
                return
            passed = decision.passed
            self._decided(now_s, decision)
        except Exception:
            logger.exception("mars-sglang: admission failed; letting everything through from now on")
            self._broken = True
            passed = tuple(self._held)
        for turn_id in passed:
            future = self._held.get(turn_id)
            if future is not None and not future.done():
                future.set_result(None)

    def _keep_ticking(self) -> None:
        if self._ticking is None or self._ticking.done():
            self._ticking = asyncio.get_running_loop().create_task(self._tick())

    async def _tick(self) -> None:
        while self._held and not self._broken:
            await asyncio.sleep(TICK_S)
            self._decide()


def _or_now(now_s: float | None) -> float:
    return clock.now() if now_s is None else now_s
