"""The control process's part in admission: one gate per server, told by the stream, which answers with tickets.

A server holds the first turn of a program, and that of one which gave up its place, and says so. The answer follows
in the same order: a ticket ``waiting``, ``admitted`` or ``resumed`` for the program. What passes without being asked
for, because its program has a place in the server's eyes or because nobody answered in time, has its place here too,
and where it is a new one that is said: so a server and its gate come to agree, whoever was late.
After a restart of this process the servers tell their programs again, and the gates are made from that.
"""

import logging
from collections import OrderedDict
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from itertools import chain
from types import MappingProxyType

from mars_sglang.control.state import State
from mars_sglang.control.tellings import Tellings
from mars_sglang.control.tool_hosts import tools_view
from mars_sglang.core.admission.fair_share import FairShare
from mars_sglang.core.gate import Gate, PoolFacts
from mars_sglang.core.policy import admission_policy
from mars_sglang.core.program import Answer, Program
from mars_sglang.core.views import ToolsView
from mars_sglang.stream.codec import Received
from mars_sglang.stream.events import (
    MAX_NAME_CHARACTERS,
    AdmissionTicket,
    AdmissionWindow,
    EngineSpeed,
    Event,
    ExecutorLoad,
    GateSettings,
    KvReclaimed,
    KvReleased,
    KvRetained,
    ProgramEnded,
    ProgramState,
    SourceState,
    SourceStopped,
    TurnEnded,
    TurnPassed,
    TurnSubmitted,
)

logger = logging.getLogger(__name__)

#: Servers at a time; beyond it the one heard of least lately loses its gate, and lets everything pass.
MAX_SERVERS = 64

#: What a gate holds is said again after so many seconds: a snapshot does not tell it to those who missed the last word.
WINDOW_S = 5.0

#: Counts come from outside; their sums must still fit into a message.
_MAX_TOKENS = 2**62


class _Server:
    """A server's gate, and what was said of it last."""

    def __init__(self, source: str, settings: GateSettings):
        self.source = source
        self.settings = settings
        policy = FairShare(admission_policy(settings.policy), settings.weights)
        pool = PoolFacts(settings.capacity_tokens, settings.host_tokens, settings.host_copies, settings.engine_keeps)
        self.gate = Gate(policy, pool)
        self.window: AdmissionWindow | None = None
        self.window_at_s = 0.0


class AdmissionConsumer:
    """A consumer of the ordered stream; see :class:`mars_sglang.control.sequencer.Consumer`."""

    def __init__(self):
        self._servers: OrderedDict[str, _Server] = OrderedDict()
        self._tellings = Tellings()
        self._tools: ToolsView | None = None
        self._speeds: OrderedDict[str, EngineSpeed] = OrderedDict()
        """What engines said last, by instance; their servers may be told of later."""

    def hear(self, received: Received, state: State) -> Iterable[Event]:
        event, now_s = received.event, received.at_s
        match event:
            case SourceState(role="server"):
                parts = self._tellings.hear(event)
                return () if parts is None else self._told(event.source, parts, now_s)
            case SourceStopped(source=source):
                self._tellings.forget(source)
                self._servers.pop(source, None)
                return ()
            case ExecutorLoad():
                # Many hosts report ten times a second each; it matters now where somebody waits, else at the next tick.
                waited_for = [server for server in self._servers.values() if server.gate.waiting]
                if waited_for:
                    self._see_tools(state, now_s)
                return chain.from_iterable(self._decide(server, now_s) for server in waited_for)
            case EngineSpeed():
                return self._see_speed(event, now_s)
            case ProgramEnded(program=str(program)):
                return self._ended(program, event.reason, now_s)
            case KvRetained(program=str(program)):
                self._resident(program, event.pages * event.page_tokens)
            case KvReclaimed(program=str(program)):
                self._resident(program, event.pages_left * event.page_tokens)
            case KvReleased(program=str(program)):
                self._resident(program, 0)
            case _ if (server := self._servers.get(event.source)) is not None:
                self._servers.move_to_end(event.source)
                return self._hear_server(server, event, now_s)
        return ()

    def tick(self, now_s: float, state: State) -> Iterable[Event]:
        self._see_tools(state, now_s)
        for server in list(self._servers.values()):
            yield from self._decide(server, now_s, tick=True)

    # -- what servers say ------------------------------------------------------------------------

    def _hear_server(self, server: _Server, event: Event, now_s: float) -> Iterable[Event]:
        gate = server.gate
        match event:
            case TurnSubmitted():
                program = event.program if event.gated else None
                had_place = program is not None and _has_place(gate, program)
                has_place = gate.submit(
                    program,
                    event.turn,
                    event.prompt_tokens,
                    now_s,
                    tenant=event.tenant,
                    remaining_turns=event.remaining_turns,
                    passed=not event.held,
                )
                asked = [program] if program is not None and event.held else []
                # The server asks although its program has a place here: it did not hear of that, or lost it. Or it
                # did not ask although its program had none.
                surprised = program is not None and has_place and had_place == event.held
                return self._decide(server, now_s, asked, {program: 0.0} if surprised else {})
            case TurnPassed(program=str(program)) if program in gate.waiting:
                waited_s = max(0.0, now_s - gate.programs.get(program).view().waiting_since_s)
                gate.let_go(program, now_s)
                return self._decide(server, now_s, (), {program: waited_s})
            case TurnEnded():
                answer = None
                if event.prompt_tokens + event.output_tokens:
                    tools = tuple(use.command or use.tool for use in event.tools)
                    answer = Answer(event.prompt_tokens, event.output_tokens, event.cached_tokens, tools)
                if gate.finish(event.program, event.turn, now_s, answer, last=event.last):
                    return self._released(server, event.program, now_s)
            case _:
                return ()
        return self._decide(server, now_s)

    def _released(self, server: _Server, program: str, now_s: float) -> Iterator[Event]:
        yield AdmissionTicket(server=server.source, program=program, decision="released")
        yield from self._decide(server, now_s)

    def _told(self, source: str, parts: list[SourceState], now_s: float) -> Iterable[Event]:
        """A server tells everything: at its start, and where messages or this process were lost."""
        settings = parts[-1].gate
        if settings is None:
            self._servers.pop(source, None)
            return ()
        server = self._servers.get(source)
        if server is None or server.settings != settings:
            try:
                server = _Server(source, settings)
            except ValueError as error:
                logger.warning("%s has no gate, and lets everything pass: %s", source, error)
                self._servers.pop(source, None)
                return ()
            self._servers[source] = server
            self._price(server)
            if len(self._servers) > MAX_SERVERS:
                self._servers.popitem(last=False)
        self._servers.move_to_end(source)
        told = {said.program: said for part in parts for said in part.programs}
        server.gate.keep_only(told)
        # Nothing on the same host, where a message's time is its place in the order.
        ahead_s = now_s - parts[-1].time_s
        anonymous = {turn.turn: turn.prompt_tokens for turn in parts[-1].under_way}
        for said in told.values():
            server.gate.restore(_program(said, anonymous, ahead_s))
        server.gate.restore_anonymous(anonymous.items())
        asked = [said.program for said in told.values() if any(turn.held for turn in said.under_way)]
        return self._decide(server, now_s, asked, tick=True)

    def _ended(self, program: str, reason: str, now_s: float) -> Iterator[Event]:
        """It is over, or dormant, wherever it has a place."""
        for server in list(self._servers.values()):
            if server.gate.end(program, now_s, said=reason != "dormant"):
                yield from self._released(server, program, now_s)

    def _resident(self, program: str, tokens: int) -> None:
        for server in self._servers.values():
            server.gate.resident(program, tokens)

    def _see_speed(self, speed: EngineSpeed, now_s: float) -> Iterator[Event]:
        self._speeds[speed.instance] = speed
        self._speeds.move_to_end(speed.instance)
        if len(self._speeds) > MAX_SERVERS:
            self._speeds.popitem(last=False)
        for server in list(self._servers.values()):
            if server.settings.instance == speed.instance:
                self._price(server)
                yield from self._decide(server, now_s)

    def _price(self, server: _Server) -> None:
        """What work costs on the server's engine, as far as it said."""
        speed = self._speeds.get(server.settings.instance)
        if speed is not None:
            server.gate.prefill_token_s = speed.prefill_token_s or None
            server.gate.load_token_s = speed.load_token_s

    def _see_tools(self, state: State, now_s: float) -> None:
        self._tools = tools_view(state.executors, lambda executor: state.is_stale(executor, now_s))

    # -- decisions -------------------------------------------------------------------------------

    def _decide(
        self,
        server: _Server,
        now_s: float,
        asked: Collection[str] = (),
        placed: Mapping[str, float] = MappingProxyType({}),
        tick: bool = False,
    ) -> Iterator[Event]:
        """Run the policy, and say what changed.

        Args:
            asked: programs that want an answer, though it be to wait.
            placed: programs that have a place already, which is to be said, and the seconds that each waited for it.
            tick: whether to say what the gate holds although nothing changed.
        """
        gate = server.gate
        gate.tools = self._tools
        decision = gate.decide(now_s)
        tickets = [(program, "paused", 0.0) for program in decision.paused]
        for program, waited_s in (*placed.items(), *decision.admitted):
            known = gate.programs.get(program)
            tickets.append((program, "resumed" if known is not None and known.turns else "admitted", waited_s))
        tickets += [(program, "waiting", 0.0) for program in asked if program in gate.waiting]
        for program, said, waited_s in tickets:
            reason = decision.reasons.get(program, "")[:MAX_NAME_CHARACTERS]
            yield AdmissionTicket(
                server=server.source, program=program, decision=said, waited_s=waited_s, reason=reason
            )
        if decision or tick:
            window = _window(server)
            if window != server.window or now_s - server.window_at_s >= WINDOW_S:
                server.window, server.window_at_s = window, now_s
                yield window


def _window(server: _Server) -> AdmissionWindow:
    counts = server.gate.snapshot()
    return AdmissionWindow(
        server=server.source,
        policy=server.gate.policy.name,
        admitted=counts.admitted,
        waiting=counts.waiting,
        paused=counts.paused,
        footprint_tokens=max(0, min(counts.footprint_tokens, _MAX_TOKENS)),
        anonymous_tokens=max(0, min(counts.anonymous_tokens, _MAX_TOKENS)),
        capacity_tokens=counts.capacity_tokens,
        host_tokens=counts.host_tokens,
    )


def _has_place(gate: Gate, program: str) -> bool:
    known = gate.programs.get(program)
    return known is not None and known.admitted


def _program(said: ProgramState, anonymous: Container[str], ahead_s: float) -> Program:
    """As its server tells of it.

    Args:
        anonymous: turns that count as nobody's: its first may be among them.
        ahead_s: by how much this process's clock is ahead of the server's.
    """
    known = Program(said.program, said.arrived_s + ahead_s, said.turns, said.context_tokens, tenant=said.tenant)
    known.parent = said.parent
    if said.turns:
        known.last_end_s = said.since_s + ahead_s
    for turn in said.under_way:
        if turn.turn in anonymous:
            continue
        # One that has a place holds nothing, though its server may not have got round to letting it go.
        begin = known.hold if turn.held and said.admission != "admitted" else known.begin
        begin(turn.turn, turn.prompt_tokens, turn.since_s + ahead_s)
    admitted = said.admission == "admitted" or bool(known.in_flight)
    known.place(admitted=admitted, paused=said.admission == "paused" and not admitted)
    return known
