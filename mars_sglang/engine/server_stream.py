"""The server process's end of the stream: what happens to turns and programs, and what others say."""

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any

import zmq

from mars_sglang import clock
from mars_sglang.config import StreamConfig
from mars_sglang.control.state import STALE_S
from mars_sglang.core.program import Program
from mars_sglang.engine import stream_end
from mars_sglang.engine.identity import Identity
from mars_sglang.engine.side_processes import beside
from mars_sglang.engine.stream_end import StreamEnd, fit
from mars_sglang.engine.turns import MAX_EXECUTORS, keep_newest
from mars_sglang.stream.events import (
    AdmissionTicket,
    AdmissionWindow,
    ExecutorLoad,
    FirstToken,
    GateSettings,
    PausePredicted,
    ProgramEnded,
    ProgramState,
    SourceState,
    ToolUse,
    TurnEnded,
    TurnPassed,
    TurnState,
    TurnSubmitted,
)
from mars_sglang.stream.resync import state_parts
from mars_sglang.stream.snapshot import ExecutorState, Snapshot

logger = logging.getLogger(__name__)

#: What a server hears.
HEARD = (*stream_end.HEARD, AdmissionTicket, AdmissionWindow)

#: Decisions that the state page shows.
MAX_DECISIONS = 64

#: Predictions remembered, by program.
MAX_PREDICTIONS = 10_000


class ServerStream:
    """Publishes for the server process and hears the rest. Used on the event loop's thread.

    Args:
        config: where the stream is; the processes it asks for are started.
        state: what this server knows to be going on: programs, turns without one, and its gate's settings.
        first_tokens: whether to hear of those.
    """

    def __init__(
        self,
        config: StreamConfig,
        state: Callable[[], tuple[Iterable[ProgramState], tuple[TurnState, ...], GateSettings | None]],
        *,
        first_tokens: bool = False,
    ):
        self.address = config.address
        self._processes = beside(config)
        self._state = state
        heard = (*HEARD, FirstToken) if first_tokens else HEARD
        self._end = StreamEnd(config, "server", self._parts, heard, lambda: self.on_restart())
        self._publish = self._end.publish
        self.executors: OrderedDict[str, tuple[float, ExecutorLoad]] = OrderedDict()
        """Latest report by executor, with the time at which it came."""
        self.predictions: OrderedDict[str, PausePredicted] = OrderedDict()
        self.window: AdmissionWindow | None = None
        """What our gate held when it was last heard of."""
        self.decisions: deque[AdmissionTicket] = deque(maxlen=MAX_DECISIONS)
        """The last ones, oldest first, without those that say to wait."""
        self.on_ticket: Callable[[AdmissionTicket], None] = lambda ticket: None
        self.on_snapshot: Callable[[Snapshot], None] = lambda snapshot: None
        self.on_restart: Callable[[], None] = lambda: None
        self.on_first_token: Callable[[str], None] = lambda turn_id: None
        self.on_dormant: Callable[[str], None] = lambda program: None

    # -- what we say ---------------------------------------------------------------------------

    def submitted(
        self,
        identity: Identity,
        turn_id: str,
        prompt_tokens: int,
        output_tokens: int,
        number: int,
        held: bool,
        now_s: float,
    ) -> None:
        """
        Args:
            output_tokens: the answer's bound, as far as the client gave one.
            number: turns of its program that ended.
            held: whether it waits for a ticket.
        """
        self._publish(
            TurnSubmitted,
            time_s=now_s,
            program=identity.program,
            turn=turn_id,
            prompt_tokens=prompt_tokens,
            projected_tokens=prompt_tokens + output_tokens,
            number=number,
            recognised_by=identity.recognised_by,
            parent=identity.parent,
            tool=identity.tool,
            gated=identity.gated,
            held=held,
            tenant=identity.tenant,
            remaining_turns=identity.remaining_turns,
        )

    def passed(self, program: str, turn_id: str, reason: str, now_s: float) -> None:
        """It waited for a ticket, and goes without one."""
        self._publish(TurnPassed, time_s=now_s, program=program, turn=turn_id, reason=reason)

    def ended(
        self,
        program: str | None,
        turn_id: str,
        now_s: float,
        meta: dict[str, Any],
        finish_reason: str,
        tools: tuple[ToolUse, ...],
        last: bool,
    ) -> None:
        self._publish(
            TurnEnded,
            time_s=now_s,
            program=program,
            turn=turn_id,
            prompt_tokens=meta.get("prompt_tokens") or 0,
            output_tokens=meta.get("completion_tokens") or 0,
            cached_tokens=meta.get("cached_tokens") or 0,
            finish_reason=finish_reason,
            tools=tools,
            last=last,
        )

    def program_ended(self, program: str, reason: str, now_s: float) -> None:
        self._publish(ProgramEnded, time_s=now_s, program=program, reason=reason)
        self.predictions.pop(program, None)

    # -- what others say -----------------------------------------------------------------------

    @property
    def socket(self) -> zmq.Socket:
        """Becomes readable when something may have come."""
        return self._end.socket

    def heard_s(self) -> float:
        """Real seconds since the control process was heard of; infinite before the first time."""
        return self._end.heard_s()

    def executor_states(self) -> list[ExecutorState]:
        """The last word of every executor; how busy one is now is unknown where that is old."""
        now_s, stale_s = clock.now(), STALE_S * clock.speed()
        return [
            ExecutorState(load=load, at_s=heard_s, stale=now_s - heard_s > stale_s)
            for heard_s, load in self.executors.values()
        ]

    def keep_alive(self) -> None:
        """Start side processes again that ended."""
        for process in self._processes:
            process.check()

    def poll(self) -> None:
        """Hear, and tell our state again where it was lost."""
        for event in self._end.hear():
            match event:
                case AdmissionTicket(server=server) if server == self._end.source:
                    if event.decision != "waiting":
                        self.decisions.append(event)
                    self.on_ticket(event)
                case AdmissionWindow(server=server) if server == self._end.source:
                    self.window = event
                case ExecutorLoad(executor=executor):
                    keep_newest(self.executors, executor, (clock.now(), event), MAX_EXECUTORS)
                case PausePredicted(program=str(program)):
                    keep_newest(self.predictions, program, event, MAX_PREDICTIONS)
                case ProgramEnded(program=str(program), reason="dormant"):
                    self.predictions.pop(program, None)
                    self.on_dormant(program)
                case FirstToken(turn=str(turn_id)):
                    self.on_first_token(turn_id)
                case Snapshot():
                    self.on_snapshot(event)

    def _parts(self) -> Iterable[SourceState]:
        programs, under_way, gate = self._state()
        return state_parts("server", programs, (), under_way, gate)

    def report(self) -> dict[str, Any]:
        """For the state page."""
        processes = {process.name: {"pid": process.pid, "starts": process.starts} for process in self._processes}
        return {"address": self.address, **self._end.report(), "processes": processes}


def turn_state(turn_id: str, prompt_tokens: int, since_s: float, held: bool = False) -> TurnState:
    """A turn under way, as a snapshot shows it."""
    return TurnState(turn=fit(turn_id), prompt_tokens=prompt_tokens, since_s=since_s, held=held)


def program_state(known: Program, admission: str | None) -> ProgramState:
    """A program of the server's table, as a snapshot shows it.

    Args:
        admission: as in :class:`ProgramState`.
    """
    under_way = [turn_state(turn, *begun) for turn, begun in known.in_flight.items()]
    under_way += [turn_state(turn, *asked, held=True) for turn, asked in known.held.items()]
    if known.held:
        phase, since_s = "held", min(at for _, at in known.held.values())
    elif known.in_flight:
        phase, since_s = "reasoning", known.last_end_s or known.arrived_s
    else:
        phase, since_s = "acting", known.last_end_s or known.arrived_s
    return ProgramState(
        program=known.program,
        phase=phase,
        since_s=since_s,
        arrived_s=known.arrived_s,
        turns=known.turns,
        context_tokens=known.context_tokens,
        admission=admission,
        parent=known.parent,
        recognised_by=known.recognised_by,
        tools=known.tools,
        tenant=known.tenant,
        under_way=tuple(under_way),
    )
