"""The server process's end of the stream: what happens to turns and programs, and what others say."""

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from mars_sglang import clock
from mars_sglang.config import StreamConfig
from mars_sglang.core.gate import Gate, GateDecision
from mars_sglang.core.program import Program, ProgramTable
from mars_sglang.engine.identity import Identity
from mars_sglang.engine.side_processes import beside
from mars_sglang.engine.stream_end import MAX_TOLD_PROGRAMS, StreamEnd
from mars_sglang.engine.turns import MAX_EXECUTORS, keep_newest
from mars_sglang.stream.events import (
    AdmissionTicket,
    ExecutorLoad,
    PausePredicted,
    ProgramEnded,
    ProgramState,
    ToolUse,
    TurnEnded,
    TurnSubmitted,
)
from mars_sglang.stream.gate_words import decided

logger = logging.getLogger(__name__)

#: Predictions remembered, by program.
MAX_PREDICTIONS = 10_000


class ServerStream:
    """Publishes for the server process and hears the rest. Used on the event loop's thread.

    Args:
        config: where the stream is; the processes it asks for are started.
        programs: the server's table, told again when the stream lost something.
    """

    def __init__(self, config: StreamConfig, programs: ProgramTable):
        self.address = config.address
        self._programs = programs
        self._processes = beside(config)
        self._end = StreamEnd(config, "server", self._state)
        self._publish = self._end.publish
        self.executors: OrderedDict[str, tuple[float, ExecutorLoad]] = OrderedDict()
        """Latest report by executor, with the time at which it came."""
        self.predictions: OrderedDict[str, PausePredicted] = OrderedDict()
        self.on_dormant: Callable[[str], None] = lambda program: None

    # -- what we say ---------------------------------------------------------------------------

    def submitted(self, identity: Identity, turn_id: str, prompt_tokens: int, output_tokens: int, now_s: float) -> None:
        known = self._programs.get(identity.program) if identity.program else None
        self._publish(
            TurnSubmitted,
            time_s=now_s,
            program=identity.program,
            turn=turn_id,
            prompt_tokens=prompt_tokens,
            projected_tokens=prompt_tokens + output_tokens,
            number=known.turns if known else 0,
            recognised_by=identity.recognised_by,
            parent=identity.parent,
            tool=identity.tool,
            gated=identity.gated,
        )

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

    def decided(self, gate: Gate, decision: GateDecision, now_s: float) -> None:
        for event in decided(gate, decision, now_s):
            self._publish(event)

    def released(self, program: str, now_s: float) -> None:
        """It ended or went dormant, and gave up its place."""
        self._publish(AdmissionTicket, time_s=now_s, program=program, decision="released")

    def program_ended(self, program: str, reason: str, now_s: float) -> None:
        self._publish(ProgramEnded, time_s=now_s, program=program, reason=reason)
        self.predictions.pop(program, None)

    # -- what others say -----------------------------------------------------------------------

    def poll(self) -> None:
        """Hear, keep the side processes alive, and tell our state again where it was lost."""
        for process in self._processes:
            process.check()
        for event in self._end.hear():
            match event:
                case ExecutorLoad(executor=executor):
                    keep_newest(self.executors, executor, (clock.now(), event), MAX_EXECUTORS)
                case PausePredicted(program=str(program)):
                    keep_newest(self.predictions, program, event, MAX_PREDICTIONS)
                case ProgramEnded(program=str(program), reason="dormant"):
                    self.predictions.pop(program, None)
                    self.on_dormant(program)

    def _state(self) -> list[ProgramState]:
        newest = [known for known, _ in zip(self._programs.newest(), range(MAX_TOLD_PROGRAMS), strict=False)]
        return [program_state(known) for known in reversed(newest)]

    def report(self) -> dict[str, Any]:
        """For the state page."""
        processes = {process.name: {"pid": process.pid, "starts": process.starts} for process in self._processes}
        return {"address": self.address, **self._end.report(), "processes": processes}


def program_state(known: Program) -> ProgramState:
    """A program of the server's table, as a snapshot shows it."""
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
        admission="admitted" if known.admitted else "waiting" if known.held else None,
        parent=known.parent,
        recognised_by=known.recognised_by,
        tools=known.tools,
    )
