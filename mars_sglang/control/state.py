"""What all events so far come to: programs, retained contexts, tool calls, executors. Pure and bounded.

The same sequence of (event, at_s) gives the same state. Programs are known from the server's
events, retained contexts from the engine's, tool calls and executors from whoever runs tools;
each source owns what it told, and takes it along when it stops.
"""

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from typing import Any

from mars_sglang.control.tellings import Tellings
from mars_sglang.stream.events import (
    AdmissionTicket,
    Event,
    ExecutorLoad,
    FirstToken,
    KvReclaimed,
    KvReleased,
    KvRetained,
    ProgramEnded,
    ProgramState,
    SourceState,
    SourceStopped,
    ToolCallState,
    ToolEnded,
    ToolFailed,
    ToolStarted,
    ToolUse,
    TurnEnded,
    TurnSubmitted,
)
from mars_sglang.stream.snapshot import MAX_SNAPSHOT_PROGRAMS, ExecutorState

MAX_PROGRAMS = 100_000
MAX_TOOL_CALLS = 10_000
MAX_EXECUTORS = 256
MAX_SOURCES = 1024
#: Turns of one program that run at a time, and tools of one turn, as far as they are followed.
MAX_TURNS, MAX_TOOLS = 64, 4
#: Age from which an executor's load says nothing about now: 20 reports of a sidecar.
STALE_S = 2.0

_MAX_COUNT = 2**62

#: What a ticket makes of a program; one that was released waits for nothing and holds no place.
_ADMISSION = {"waiting": "waiting", "admitted": "admitted", "resumed": "admitted", "paused": "paused"}


class Program:
    """A program as the server told of it. Times are the control process's clock; see :class:`ProgramState`."""

    __slots__ = (
        "admission",
        "arrived_s",
        "context_tokens",
        "held",
        "parent",
        "recognised_by",
        "running",
        "since_s",
        "source",
        "tenant",
        "tools",
        "turns",
    )

    def __init__(self, source: str, arrived_s: float):
        self.source = source
        self.arrived_s = self.since_s = arrived_s
        self.running: tuple[str | None, ...] = ()
        """Request ids of its turns at the server; usually one or none."""
        self.held = False
        self.turns = 0
        self.context_tokens = 0
        self.admission: str | None = None
        self.parent: str | None = None
        self.recognised_by: str | None = None
        self.tools: tuple[ToolUse, ...] = ()
        self.tenant = ""

    @property
    def phase(self) -> str:
        """``held``, ``reasoning`` or ``acting``."""
        if not self.running:
            return "acting"
        return "held" if self.held else "reasoning"


class State:
    """The tables. Those for reading are ``programs``, ``tool_calls`` and ``executors``, least lately heard of first."""

    def __init__(self, stale_s: float = STALE_S):
        """``stale_s``: seconds of the clock after which an executor's load is old."""
        self.programs: OrderedDict[str, Program] = OrderedDict()
        self.retained: OrderedDict[str, tuple[int, int, str]] = OrderedDict()
        """Program to pages, tokens per page, and the engine that said so."""
        self.tool_calls: OrderedDict[tuple[str, str], ToolCallState] = OrderedDict()
        """By source and call."""
        self.executors: OrderedDict[str, tuple[ExecutorLoad, float]] = OrderedDict()
        """Last load and when."""
        self._stale_s = stale_s
        # Who told of programs or contexts: a source that only ran a tool stops without a look at every program.
        self._speakers: OrderedDict[str, None] = OrderedDict()
        self._tellings = Tellings()

    def apply(self, event: Event, at_s: float) -> None:
        """Take in the next event of the order."""
        step = _STEPS.get(type(event))
        if step is not None:
            step(self, event, at_s)

    def is_stale(self, executor: str, now_s: float) -> bool:
        """Whether how busy this executor is now is unknown."""
        known = self.executors.get(executor)
        return known is None or now_s - known[1] > self._stale_s

    def describe(self, now_s: float) -> dict[str, Any]:
        """The fields of a :class:`mars_sglang.stream.snapshot.Snapshot` that are state."""
        latest = islice(reversed(self.programs), MAX_SNAPSHOT_PROGRAMS)
        return {
            "programs": tuple(self.program_state(program) for program in latest),
            "programs_left_out": max(0, len(self.programs) - MAX_SNAPSHOT_PROGRAMS),
            "tool_calls": tuple(self.tool_calls.values()),
            "executors": tuple(
                ExecutorState(load=load, at_s=at_s, stale=self.is_stale(name, now_s))
                for name, (load, at_s) in self.executors.items()
            ),
        }

    def program_state(self, program: str) -> ProgramState:
        """A program as a snapshot has it.

        Raises:
            KeyError: no such program.
        """
        known = self.programs[program]
        pages, page_tokens, _ = self.retained.get(program, (0, 1, ""))
        return ProgramState(
            program=program,
            phase=known.phase,
            since_s=known.since_s,
            arrived_s=known.arrived_s,
            turns=known.turns,
            context_tokens=known.context_tokens,
            retained_pages=pages,
            page_tokens=page_tokens,
            admission=known.admission,
            parent=known.parent,
            recognised_by=known.recognised_by,
            tools=known.tools,
            tenant=known.tenant,
        )

    # -- GPU plane --------------------------------------------------------------------------

    def _turn_submitted(self, event: TurnSubmitted, at_s: float) -> None:
        if event.program is None:
            return
        known = self.programs.get(event.program)
        if known is None:
            known = _put(self.programs, event.program, Program(event.source, at_s), MAX_PROGRAMS)
            self._speaks(event.source)
        else:
            self.programs.move_to_end(event.program)
        if not known.running:
            known.since_s = at_s
            known.held = event.held
            if known.held and known.admission != "paused":
                known.admission = "waiting"
        known.source = event.source
        known.running = (*known.running[-MAX_TURNS + 1 :], event.turn)
        known.turns = _count(event.number)
        known.context_tokens = _count(event.prompt_tokens)
        known.parent = event.parent or known.parent
        known.tenant = event.tenant or known.tenant
        known.recognised_by = event.recognised_by or known.recognised_by

    def _first_token(self, event: FirstToken, at_s: float) -> None:
        known = self._heard_of(event.program)
        if known is not None and event.prompt_tokens:
            known.context_tokens = _count(event.prompt_tokens)

    def _turn_ended(self, event: TurnEnded, at_s: float) -> None:
        known = self._heard_of(event.program)
        if known is None:
            return
        # A turn that we do not know began before the last SourceState, which tells no ids.
        ended = event.turn if event.turn in known.running else None
        running = list(known.running)
        if ended in running:
            running.remove(ended)
        known.running = tuple(running)
        known.turns = _count(known.turns + 1)
        known.context_tokens = _count(event.prompt_tokens + event.output_tokens)
        known.tools = event.tools[:MAX_TOOLS]
        if not running:
            known.since_s = at_s
            known.held = False

    def _kv_retained(self, event: KvRetained, at_s: float) -> None:
        if event.program is not None:
            self._retain(event.program, event.pages, event.page_tokens, event.source)

    def _kv_reclaimed(self, event: KvReclaimed, at_s: float) -> None:
        if event.program in self.retained:
            self._retain(event.program, event.pages_left, event.page_tokens, event.source)

    def _kv_released(self, event: KvReleased, at_s: float) -> None:
        self.retained.pop(event.program, None)

    def _retain(self, program: str, pages: int, page_tokens: int, source: str) -> None:
        if pages:
            self._speaks(source)
            _put(self.retained, program, (pages, page_tokens, source), MAX_PROGRAMS)
        else:
            self.retained.pop(program, None)

    def _heard_of(self, program: str | None) -> Program | None:
        known = self.programs.get(program)
        if known is not None:
            self.programs.move_to_end(program)
        return known

    def _speaks(self, source: str) -> None:
        _put(self._speakers, source, None, MAX_SOURCES)

    # -- CPU plane --------------------------------------------------------------------------

    def _tool_started(self, event: ToolStarted, at_s: float) -> None:
        call = ToolCallState(
            call=event.call,
            tool=event.tool,
            program=event.program,
            turn=event.turn,
            command=event.command,
            executor=event.executor,
            started_s=at_s,
        )
        _put(self.tool_calls, (event.source, event.call), call, MAX_TOOL_CALLS)

    def _tool_over(self, event: ToolEnded | ToolFailed, at_s: float) -> None:
        self.tool_calls.pop((event.source, event.call), None)

    def _executor_load(self, event: ExecutorLoad, at_s: float) -> None:
        _put(self.executors, event.executor or event.source, (event, at_s), MAX_EXECUTORS)

    # -- control plane ----------------------------------------------------------------------

    def _admission_ticket(self, event: AdmissionTicket, at_s: float) -> None:
        known = self._heard_of(event.program)
        if known is None:
            return
        known.admission = _ADMISSION.get(event.decision)
        if known.held and known.admission == "admitted":
            known.held = False
            known.since_s = at_s

    def _program_ended(self, event: ProgramEnded, at_s: float) -> None:
        self.programs.pop(event.program, None)

    # -- sync -------------------------------------------------------------------------------

    def _source_state(self, event: SourceState, at_s: float) -> None:
        parts = self._tellings.hear(event)
        if parts is None:
            return
        if event.role == "server":
            self._server_told(event.source, parts)
        elif event.role == "engine":
            self._engine_told(event.source, parts)
        self._calls_told(event.source, parts)

    def _server_told(self, source: str, parts: list[SourceState]) -> None:
        self._speaks(source)
        for name in [name for name, known in self.programs.items() if known.source == source]:
            del self.programs[name]
        # The latest heard of comes last, whatever the order in which the source tells.
        for told in sorted(_programs(parts), key=lambda told: (told.since_s, told.program)):
            known = Program(source, told.arrived_s)
            known.since_s = told.since_s
            known.turns = _count(told.turns)
            known.context_tokens = _count(told.context_tokens)
            known.admission = told.admission
            known.parent = told.parent
            known.recognised_by = told.recognised_by
            known.tools = told.tools[:MAX_TOOLS]
            known.held = told.phase == "held"
            known.tenant = told.tenant
            if told.phase != "acting":
                known.running = tuple(turn.turn for turn in told.under_way[-MAX_TURNS:]) or (None,)
            _put(self.programs, told.program, known, MAX_PROGRAMS)

    def _engine_told(self, source: str, parts: list[SourceState]) -> None:
        self._speaks(source)
        for name in [name for name, (_, _, owner) in self.retained.items() if owner == source]:
            del self.retained[name]
        for told in _programs(parts):
            self._retain(told.program, told.retained_pages, told.page_tokens, source)

    def _calls_told(self, source: str, parts: list[SourceState]) -> None:
        for key in [key for key in self.tool_calls if key[0] == source]:
            del self.tool_calls[key]
        for part in parts:
            for call in part.tool_calls:
                _put(self.tool_calls, (source, call.call), call, MAX_TOOL_CALLS)

    def _source_stopped(self, event: SourceStopped, at_s: float) -> None:
        source = event.source
        if source in self._speakers:
            for name in [name for name, known in self.programs.items() if known.source == source]:
                del self.programs[name]
            for name in [name for name, (_, _, owner) in self.retained.items() if owner == source]:
                del self.retained[name]
            del self._speakers[source]
        for key in [key for key in self.tool_calls if key[0] == source]:
            del self.tool_calls[key]
        for name in [name for name, (load, _) in self.executors.items() if load.source == source]:
            del self.executors[name]
        self._tellings.forget(source)


def _put(table: OrderedDict, key: Any, value: Any, limit: int) -> Any:
    """Set as the latest heard of; beyond the limit the one heard of least lately goes."""
    table[key] = value
    table.move_to_end(key)
    if len(table) > limit:
        table.popitem(last=False)
    return value


def _programs(parts: list[SourceState]) -> Iterator[ProgramState]:
    return (program for part in parts for program in part.programs)


def _count(value: int) -> int:
    """Numbers come from outside; their sums must still fit into a message."""
    return max(0, min(value, _MAX_COUNT))


_STEPS = {
    TurnSubmitted: State._turn_submitted,
    FirstToken: State._first_token,
    TurnEnded: State._turn_ended,
    KvRetained: State._kv_retained,
    KvReclaimed: State._kv_reclaimed,
    KvReleased: State._kv_released,
    ToolStarted: State._tool_started,
    ToolEnded: State._tool_over,
    ToolFailed: State._tool_over,
    ExecutorLoad: State._executor_load,
    AdmissionTicket: State._admission_ticket,
    ProgramEnded: State._program_ended,
    SourceState: State._source_state,
    SourceStopped: State._source_stopped,
}
