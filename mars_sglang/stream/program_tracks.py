"""The tracks of programs in a timeline: their turns, what lies between them, and what happens to their KV."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from mars_sglang.stream.events import (
    AdmissionTicket,
    Event,
    FirstToken,
    KvReclaimed,
    KvReleased,
    KvRetained,
    PausePredicted,
    ProgramEnded,
    SourceStopped,
    ToolUse,
    TurnEnded,
    TurnPassed,
    TurnRetracted,
    TurnSubmitted,
)
from mars_sglang.stream.trace import Row, Trace, Track

#: Turns of what may be a mere chat that are remembered, for the row of the program that it may turn out to be.
_MAX_CHATS = 10_000


@dataclass(slots=True)
class _Turn:
    track: Track
    submitted: TurnSubmitted
    submitted_us: int
    passed_us: int | None = None
    """When it went through the gate, where it was held."""
    first: FirstToken | None = None
    first_us: int = 0


@dataclass(slots=True)
class _Program:
    row: Row
    calls: Row
    turns: dict[str | None, _Turn] = field(default_factory=dict)
    """Under way, by id."""
    source: str = ""
    pause_us: int | None = None
    """Since when nothing of it is under way; None where it does not count as inside a tool."""
    tools: tuple[ToolUse, ...] = ()
    prediction: PausePredicted | None = None
    retained: KvRetained | None = None
    retained_us: int = 0
    retained_until_us: int | None = None


class ProgramTracks:
    """One row of tracks for each program, and one for the requests without."""

    def __init__(self, trace: Trace):
        self._trace = trace
        self._pid = trace.process("programs")
        self._programs: dict[str | None, _Program] = {}
        self._turns: dict[str | None, _Program] = {}
        """Whose each turn under way is, by its id: the engine calls one that is not gated nobody's."""
        self._chats: OrderedDict[str, tuple[_Turn, TurnEnded, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._programs) - (None in self._programs)

    def calls(self, program: str) -> Row:
        """Where the program's tool calls are drawn."""
        return self._of(program).calls

    def hear(self, event: Event, at_us: int) -> None:
        """Take in the next event, in the order of time."""
        match event:
            case TurnSubmitted():
                self._turn_submitted(event, at_us)
            case FirstToken():
                turn = self._turn(event.turn)
                if turn is not None and turn.first is None:
                    turn.first, turn.first_us = event, at_us
            case TurnPassed():
                if (turn := self._turn(event.turn)) is not None and turn.passed_us is None:
                    turn.passed_us = at_us
                    turn.track.instant("let go", at_us, {"reason": event.reason})
            case TurnEnded():
                self._turn_ended(event, at_us)
            case TurnRetracted():
                if (turn := self._turn(event.turn)) is not None:
                    args = {"output_tokens": event.output_tokens, "retractions": event.retractions}
                    turn.track.instant("retracted", at_us, args)
            case SourceStopped():
                self._stopped(event.source, at_us)
        known = self._programs.get(event.program) if event.program is not None else None
        if known is not None:
            self._hear_of(known, event, at_us)

    def _hear_of(self, known: _Program, event: Event, at_us: int) -> None:
        match event:
            case AdmissionTicket():
                self._ticket(known, event, at_us)
            case KvRetained():
                known.retained, known.retained_us, known.retained_until_us = event, at_us, None
            case KvReclaimed():
                known.row.first.instant("reclaimed", at_us, {"pages": event.pages, "pages_left": event.pages_left})
                if event.pages_left == 0 and known.retained_until_us is None:
                    known.retained_until_us = at_us
            case KvReleased():
                if known.retained_until_us is None:
                    known.retained_until_us = at_us
            case PausePredicted():
                known.prediction = event
            case ProgramEnded():
                self._end_pause(known, at_us)
                known.row.first.instant("program ended", at_us, {"reason": event.reason})

    def end(self, at_us: int) -> None:
        """The recording is over: draw what is under way."""
        for known in self._programs.values():
            for turn in known.turns.values():
                self._draw_turn(turn.track, known, turn, at_us, {"unfinished": True})
            self._end_pause(known, at_us, {"unfinished": True})

    def _of(self, program: str | None) -> _Program:
        known = self._programs.get(program)
        if known is None:
            name, place = "without a program" if program is None else program, 2 * len(self._programs)
            known = self._programs[program] = _Program(
                Row(self._trace, self._pid, name, place), Row(self._trace, self._pid, f"{name} tool calls", place + 1)
            )
        return known

    def _turn(self, turn_id: str | None) -> _Turn | None:
        known = self._turns.get(turn_id)
        return None if known is None else known.turns[turn_id]

    def _turn_submitted(self, event: TurnSubmitted, at_us: int) -> None:
        known = self._of(event.program if event.gated else None)
        if event.gated and event.program in self._chats:
            turn, ended, ended_us = self._chats.pop(event.program)
            self._draw_turn(known.row.first, known, turn, ended_us, _end(ended))
            self._begin_pause(known, ended, ended_us)
        if not known.turns:
            self._end_pause(known, at_us, tool=event.tool)
            known.retained = None
        if (same := self._turns.pop(event.turn, None)) is not None:
            turn = same.turns.pop(event.turn)
            self._draw_turn(turn.track, same, turn, at_us, {})
        known.source = event.source
        known.turns[event.turn] = _Turn(known.row.take(at_us), event, at_us)
        self._turns[event.turn] = known

    def _ticket(self, known: _Program, event: AdmissionTicket, at_us: int) -> None:
        if event.decision in ("admitted", "resumed"):
            for turn in known.turns.values():
                if turn.submitted.held and turn.passed_us is None and turn.first is None:
                    turn.passed_us = at_us
        elif event.decision != "waiting":
            known.row.first.instant(event.decision, at_us, {"reason": event.reason} if event.reason else {})

    def _turn_ended(self, event: TurnEnded, at_us: int) -> None:
        known = self._turns.pop(event.turn, None) or self._programs.get(event.program)
        if known is None:
            return
        turn = known.turns.pop(event.turn, None)
        if turn is not None:
            self._draw_turn(turn.track, known, turn, at_us, _end(event))
            if event.program is not None and not turn.submitted.gated:
                if event.program not in self._programs:
                    self._chats[event.program] = (turn, event, at_us)
                    if len(self._chats) > _MAX_CHATS:
                        self._chats.popitem(last=False)
                return
        if event.program is not None and not known.turns:
            self._begin_pause(known, event, at_us)

    def _begin_pause(self, known: _Program, event: TurnEnded, at_us: int) -> None:
        # A turn without an answer asked for no tool.
        known.pause_us = at_us if event.output_tokens and not event.last else None
        known.tools, known.prediction = event.tools, None

    def _draw_turn(self, track: Track, known: _Program, turn: _Turn, end_us: int, args: dict[str, Any]) -> None:
        said = turn.submitted
        args = {"turn": said.turn, "number": said.number, "prompt_tokens": said.prompt_tokens, **args}
        queued_us = turn.submitted_us
        if turn.passed_us is not None:
            queued_us = min(turn.passed_us, end_us)
            track.slice("held", turn.submitted_us, queued_us, args)
        if turn.first is None:
            held = said.held and turn.passed_us is None
            track.slice("held" if held else "queued", queued_us, end_us, args)
        else:
            args |= {"prompt_tokens": turn.first.prompt_tokens, "cached_tokens": turn.first.cached_tokens}
            first_us = min(max(turn.first_us, queued_us), end_us)
            prefill_us = max(first_us - round(turn.first.prefill_s * 1e6), queued_us)
            track.slice("queued", queued_us, prefill_us, args)
            track.slice("prefill", prefill_us, first_us, args)
            track.slice("decode", first_us, end_us, args)
        track.busy = False

    def _end_pause(
        self, known: _Program, at_us: int, args: dict[str, Any] | None = None, tool: str | None = None
    ) -> None:
        if known.pause_us is None:
            return
        begin_us, known.pause_us = known.pause_us, None
        tools = ", ".join(use.command or use.tool for use in known.tools) or tool
        said = known.prediction
        expected = {} if said is None else {"expected_s": dict(zip(said.probabilities, said.quantiles_s, strict=False))}
        track = known.row.first
        track.slice(f"tool: {tools}" if tools else "pause", begin_us, at_us, {**(args or {}), **expected})
        if known.retained is not None:
            until_us = at_us if known.retained_until_us is None else known.retained_until_us
            tokens = known.retained.pages * known.retained.page_tokens
            pages = {"pages": known.retained.pages, "tokens": tokens}
            track.inside("retained", max(begin_us, known.retained_us), until_us, pages)

    def _stopped(self, source: str, at_us: int) -> None:
        if not source.startswith("server:"):
            return
        for known in self._programs.values():
            if known.source == source:
                for turn in known.turns.values():
                    self._draw_turn(turn.track, known, turn, at_us, {"finish_reason": "server stopped"})
                    del self._turns[turn.submitted.turn]
                known.turns.clear()
                self._end_pause(known, at_us)


def _end(event: TurnEnded) -> dict[str, Any]:
    return {"output_tokens": event.output_tokens, "finish_reason": event.finish_reason}
