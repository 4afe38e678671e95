"""The admission gate of the server process: turns wait here for the control process's tickets.

Who may start is decided in the control process (:mod:`mars_sglang.control.admission`). Here stands who has a place, so
that a continuation passes without asking, and what waits for an answer. Serving does not depend on the answer: where
the control process is away, slow or new, what waits goes through in its order, and what comes passes, until it can
be asked again.
"""

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from mars_sglang.core.gate import MAX_PAUSED
from mars_sglang.core.program import MAX_PROGRAMS
from mars_sglang.engine.refusals import AdmissionRefused
from mars_sglang.stream.events import AdmissionTicket, ProgramState

logger = logging.getLogger(__name__)

#: How often a waiting turn looks whether its client is still there, in real seconds. SGLang
#: looks every 4 s at a turn that waits in the scheduler.
DISCONNECT_POLL_S = 1.0

#: Real seconds in which an answer is due. A busy machine misses that now and then, so one late answer is only
#: counted; this many in a row, or one that is this late, and the control process counts as slow.
ANSWER_S, MAX_LATE, STUCK_S = 0.05, 8, 1.0

#: Real seconds for which a slow control process is not asked again, at first and at most.
FIRST_OPEN_S, LONGEST_OPEN_S = 5.0, 60.0

#: Silence of the control process in real seconds after which it counts as away: three heartbeats.
AWAY_S = 1.5

#: Weight of the newest wait in the mean that a refused client is told to wait for.
_WAIT_WEIGHT = 0.1

AWAY, SLOW, RESTARTED = "away", "slow", "restarted"
"""Why turns went through without a ticket."""


class TurnAborted(ValueError):
    """The turn was aborted, or its client went away, while it waited at the gate."""


@dataclass(slots=True)
class _Held:
    program: str
    passed: asyncio.Future[None]
    asked_at: float
    """Real time."""
    answered: bool = False


@dataclass(slots=True)
class GateCounters:
    """Since the start."""

    refused: dict[int, int] = field(default_factory=lambda: {429: 0, 503: 0})
    """By status."""
    let_go: dict[str, int] = field(default_factory=lambda: {AWAY: 0, SLOW: 0, RESTARTED: 0})
    """Turns that waited and went through without a ticket, by reason."""
    unasked: int = 0
    """Turns that passed at once because nobody could be asked."""
    late: int = 0
    """Answers that took longer than :data:`ANSWER_S`."""


class AdmissionGate:
    """One per server process, on its event loop.

    Args:
        heard_s: real seconds since the control process was heard of, infinite before the first time.
        let_go: told of each turn that waited and goes through without a ticket: turn, program, reason.
        max_waiting: turns that may wait at a time.
        max_wait_s: real seconds that a turn may wait; None for no limit.
        answered: told how many real seconds each answer took.
    """

    def __init__(
        self,
        heard_s: Callable[[], float],
        let_go: Callable[[str, str, str], None],
        *,
        max_waiting: int,
        max_wait_s: float | None = None,
        answered: Callable[[float], None] = lambda seconds: None,
    ):
        self.counters = GateCounters()
        self._heard_s = heard_s
        self._let_go = let_go
        self._max_waiting = max_waiting
        self._max_wait_s = max_wait_s
        self._answered = answered
        self._admitted: OrderedDict[str, None] = OrderedDict()
        """Programs that have a place, least lately heard of first."""
        self._paused: OrderedDict[str, None] = OrderedDict()
        self._held: dict[str, _Held] = {}
        """By turn, in order of arrival."""
        self._turns: dict[str, list[str]] = {}
        """Of those, the turns of each program."""
        self._late: deque[bool] = deque(maxlen=MAX_LATE)
        self._open_until = self._looked_at = 0.0
        self._open_s = FIRST_OPEN_S
        self._away = True
        self._wait_s = 0.0

    # -- turns ---------------------------------------------------------------------------------

    def holds(self, program: str | None) -> bool:
        """Whether a turn of this program has to wait for a ticket now."""
        if program is None or program in self._admitted:
            return False
        if self.open is not None:
            self.counters.unasked += 1
            self._place(program)
            return False
        return True

    async def wait(
        self,
        program: str,
        turn_id: str,
        is_disconnected: Callable[[], Awaitable[bool]] | None = None,
        deadline_s: float | None = None,
    ) -> None:
        """Return when the turn may go to the scheduler. The control process was asked just before.

        Args:
            deadline_s: real seconds that its client gives it.

        Raises:
            TurnAborted: aborted while waiting, or the client went away.
            AdmissionRefused: too many wait already, or it waited for too long.
        """
        if len(self._held) >= self._max_waiting:
            raise self._refusal(429, f"{len(self._held)} turns wait for admission already, and no more may")
        held = self._held[turn_id] = _Held(program, asyncio.get_running_loop().create_future(), time.monotonic())
        self._turns.setdefault(program, []).append(turn_id)
        limits = [limit for limit in (deadline_s, self._max_wait_s) if limit is not None]
        until = held.asked_at + min(limits, default=float("inf"))
        try:
            while not held.passed.done():
                left_s = until - time.monotonic()
                if left_s <= 0:
                    waited_s = time.monotonic() - held.asked_at
                    raise self._refusal(503, f"not admitted within {waited_s:.1f} s: the server is full")
                await asyncio.wait({held.passed}, timeout=min(DISCONNECT_POLL_S, left_s))
                if not held.passed.done() and is_disconnected is not None and await is_disconnected():
                    raise TurnAborted("the client went away while its turn waited for admission")
            held.passed.result()
            self._wait_s += _WAIT_WEIGHT * (time.monotonic() - held.asked_at - self._wait_s)
        finally:
            self._drop(turn_id)

    def abort(self, turn_id: str | None) -> bool:
        """Give up a waiting turn, or all of them (None). Whether there was one."""
        aborted = [self._held[turn_id]] if turn_id in self._held else []
        if turn_id is None:
            aborted = list(self._held.values())
        for held in aborted:
            if not held.passed.done():
                held.passed.set_exception(TurnAborted("the turn was aborted while it waited for admission"))
        return bool(aborted)

    # -- what the control process says -----------------------------------------------------------

    def hear(self, ticket: AdmissionTicket) -> None:
        """A ticket for a program of this server."""
        program = ticket.program
        match ticket.decision:
            case "waiting":
                self._note_answer(program)
            case "admitted" | "resumed":
                self._note_answer(program)
                self._place(program)
                self._pass(program)
            case "paused":
                self._admitted.pop(program, None)
                self._paused[program] = None
                if len(self._paused) > MAX_PAUSED:
                    self._paused.popitem(last=False)
            case "released":
                self.forget(program)

    def hear_all(self, programs: Iterable[ProgramState]) -> None:
        """Tickets were missed; this is what the control process knows. Of a program that it does not tell nothing
        changes."""
        for said in programs:
            if said.admission == "admitted":
                self.hear(AdmissionTicket(program=said.program, decision="admitted"))
            elif said.admission == "paused" and said.phase == "acting":
                self.hear(AdmissionTicket(program=said.program, decision="paused"))

    def forget(self, program: str) -> None:
        """It ended, or went dormant."""
        self._admitted.pop(program, None)
        self._paused.pop(program, None)

    def restarted(self) -> None:
        """A new control process, which does not know yet who waits."""
        self._let_all_go(RESTARTED)

    def close(self) -> None:
        """Nothing will be heard any more: everything passes from now on."""
        self._heard_s = lambda: float("inf")
        self.check()

    def check(self) -> None:
        """Look whether the control process is there, and answers. To be called every 50 ms or so, when what it said was
        heard."""
        away = self._heard_s() > AWAY_S
        if away:
            self._let_all_go(AWAY)
        if away != self._away:
            self._away = away
            logger.log(
                logging.WARNING if away else logging.INFO,
                "mars-sglang: the control process %s",
                "was not heard of; every program may start" if away else "is there; programs ask before they start",
            )
        now = time.monotonic()
        asked = (held.asked_at for held in self._held.values() if not (held.answered or held.passed.done()))
        unanswered = next(asked, now)
        if now - unanswered > STUCK_S or (len(self._late) == MAX_LATE and all(self._late)):
            logger.warning("mars-sglang: the control process is slow; every program may start for %g s", self._open_s)
            self._late.clear()
            self._open_until = now + self._open_s
            self._open_s = min(2 * self._open_s, LONGEST_OPEN_S)
            self._let_all_go(SLOW)
        self._looked_at = now

    # -- for others to see -----------------------------------------------------------------------

    @property
    def open(self) -> str | None:
        """Why nobody is asked now; None where programs are."""
        if self._heard_s() > AWAY_S:
            return AWAY
        return SLOW if time.monotonic() < self._open_until else None

    @property
    def waiting(self) -> int:
        """Turns that wait."""
        return len(self._held)

    def has_place(self, program: str) -> bool:
        return program in self._admitted

    def is_paused(self, program: str) -> bool:
        return program in self._paused

    def paused(self) -> tuple[str, ...]:
        """Programs that gave up their place inside a tool, whose KV goes first; oldest pause first."""
        return tuple(self._paused)

    # -- inside ------------------------------------------------------------------------------------

    def _place(self, program: str) -> None:
        self._paused.pop(program, None)
        self._admitted[program] = None
        self._admitted.move_to_end(program)
        if len(self._admitted) > MAX_PROGRAMS:
            self._admitted.popitem(last=False)

    def _drop(self, turn_id: str) -> None:
        program = self._held.pop(turn_id).program
        self._turns[program].remove(turn_id)
        if not self._turns[program]:
            del self._turns[program]

    def _pass(self, program: str) -> None:
        for turn_id in self._turns.get(program, ()):
            held = self._held[turn_id]
            if not held.passed.done():
                held.passed.set_result(None)

    def _let_all_go(self, reason: str) -> None:
        for turn_id, held in self._held.items():
            if not held.passed.done():
                self.counters.let_go[reason] += 1
                self._place(held.program)
                self._let_go(turn_id, held.program, reason)
                held.passed.set_result(None)

    def _note_answer(self, program: str) -> None:
        now = time.monotonic()
        for held in (self._held[turn_id] for turn_id in self._turns.get(program, ())):
            if not held.answered:
                held.answered = True
                took_s = now - held.asked_at
                # Not there at a look after it was due: what this process itself was too busy to hear is not late.
                late = self._looked_at - held.asked_at > ANSWER_S
                self.counters.late += late
                self._late.append(late)
                if not late:
                    self._open_s = FIRST_OPEN_S
                self._answered(took_s)

    def _refusal(self, status: int, message: str) -> AdmissionRefused:
        self.counters.refused[status] += 1
        return AdmissionRefused(status, retry_after_s=max(1.0, self._wait_s), message=message)
