"""Builds recordings as a running system writes them: real order, real gates, real publishing code, virtual time."""

import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from mars_sglang.control.sequencer import Consumer, Ordered, Sequencer
from mars_sglang.core.program import Answer, Program, ProgramTable
from mars_sglang.engine.admission_gate import RESTARTED, SLOW, AdmissionGate
from mars_sglang.engine.identity import Identity
from mars_sglang.engine.server_stream import ServerStream, program_state, turn_state
from mars_sglang.stream.codec import encode
from mars_sglang.stream.events import AdmissionTicket, Event, FirstToken, GateSettings, KvRetained, ToolUse
from mars_sglang.stream.recording import Recorded, Recorder, Recording, Session
from mars_sglang.stream.resync import state_parts

CONTROL = "control:host:1:00000000"


class Run:
    """One run of a control process, which records where it is given a ``path``.

    What it says is heard by ``listeners`` when everything that follows from a message was said.
    """

    def __init__(
        self, path: Path | None = None, consumers: Sequence[Consumer] = (), epoch: int = 1, speed: float = 1.0
    ):
        self.order = Sequencer(epoch, CONTROL, consumers)
        self._recorder = path and Recorder(path, Session(epoch=epoch, source=CONTROL, speed=speed))
        self.numbers: Counter[str] = Counter()
        self.listeners: list[Callable[[Event], None]] = []
        self.said: list[Event] = []
        """All that the consumers said."""

    def publish(self, source: str, event: Event, at_s: float | None = None) -> list[Event]:
        """What the consumers say to it.

        Args:
            at_s: the control process's clock, where it is not the sender's.
        """
        self.numbers[source] += 1
        event = msgspec.structs.replace(event, source=source, source_seq=self.numbers[source])
        return self._out(self.order.order(event, encode(event), event.time_s if at_s is None else at_s))

    def tick(self, now_s: float) -> list[Event]:
        """What the consumers say to the time."""
        return self._out(self.order.tick(now_s))

    def close(self) -> None:
        self._recorder.close()

    def _out(self, messages: list[Ordered]) -> list[Event]:
        if self._recorder is not None:
            for _, epoch, seq, topic_seq, at_s, payload, _ in messages:
                self._recorder.record(epoch, seq, topic_seq, at_s, payload)
        said = [message.event for message in messages[1:]]
        self.said += said
        for listener in self.listeners:
            for event in said:
                listener(event)
        return said


class _SaidTo(ServerStream):
    """The server's own words, without its processes and sockets."""

    def __init__(self, publish: Callable[[Event], None]):
        self._publish = lambda kind, **fields: publish(kind(**fields))
        self.predictions = OrderedDict()


class Server:
    """A server process with a gate: says and does things in the order of ``engine/server_turns.py``.

    Args:
        source: its name on the stream.
        publish: takes its events, stamped with a time.
        settings: what it asks of its gate; None for a server without one.
    """

    def __init__(self, source: str, publish: Callable[[Event], object], settings: GateSettings | None):
        self.source = source
        self.settings = settings
        self.publish = publish
        self.said = _SaidTo(lambda event: self.publish(event))
        self.gate = AdmissionGate(lambda: 0.0, lambda *let_go: None, max_waiting=1000)
        self.programs = ProgramTable()
        self.now_s = 100.0
        self.turns = 0
        self.running: dict[str, tuple[str | None, int]] = {}
        self.held: dict[str, tuple[str, int]] = {}
        self.anonymous: dict[str, tuple[int, float]] = {}
        self.answers = 0
        """Tickets for turns that it held."""
        self.prompt = True
        """Whether it hears what is said at once; else when it is told to."""
        self._unheard: list[AdmissionTicket] = []

    # -- turns -----------------------------------------------------------------------------------

    def submit(self, program: str | None, turn: str, tokens: int, gated: bool = True, **said) -> bool:
        """Whether the turn is on its way to the engine. ``said``: more fields of its :class:`Identity`."""
        identity, known, number = Identity(program, gated=gated, **said), None, 0
        if program is not None:
            known = self.programs.touch(program, self.now_s)
            known.tenant, number = identity.tenant, known.turns
        gated_as = program if gated else None
        held = self.settings is not None and self.gate.holds(gated_as)
        if held:
            known.hold(turn, tokens, self.now_s)
            self.held[turn] = (program, tokens)
        else:
            self._begin(known, turn, tokens)
            if gated_as is None:
                self.anonymous[turn] = (tokens, self.now_s)
            self.running[turn] = (program, tokens)
        self.said.submitted(identity, turn, tokens, 100, number, held, self.now_s)
        return turn in self.running

    def end(
        self,
        turn: str,
        output_tokens: int = 0,
        last: bool = False,
        tools: tuple[ToolUse, ...] = (),
        cached_tokens: int = 0,
    ) -> None:
        """``output_tokens``: 0 for a turn that failed or was given up."""
        program, tokens = self.running.pop(turn, None) or self.held.pop(turn)
        self.anonymous.pop(turn, None)
        meta, answer = {}, None
        if output_tokens:
            meta = {"prompt_tokens": tokens, "completion_tokens": output_tokens, "cached_tokens": cached_tokens}
            answer = Answer(tokens, output_tokens)
        if program is not None:
            self.programs.get(program).end(turn, self.now_s, answer)
        self.said.ended(program, turn, self.now_s, meta, "stop" if output_tokens else "abort", tools, last)
        if last and program is not None:
            self._say_over(program, "final")

    def close(self, program: str) -> None:
        """Somebody said that the program is over."""
        known = self.programs.get(program)
        if known is not None and not known.in_flight and not known.held:
            self._say_over(program, "closed")

    def _say_over(self, program: str, reason: str) -> None:
        known = self.programs.get(program)
        if not known.in_flight and not known.held:
            self.gate.forget(program)
        self.said.program_ended(program, reason, self.now_s)

    def _begin(self, known: Program | None, turn: str, tokens: int) -> None:
        if known is not None:
            known.begin(turn, tokens, self.now_s)
            known.held.pop(turn, None)

    # -- the control process ---------------------------------------------------------------------

    def hear(self, event: Event) -> None:
        """What the control process says."""
        if isinstance(event, AdmissionTicket) and event.server == self.source:
            self._unheard.append(event)
            if self.prompt:
                self.catch_up()

    def catch_up(self) -> None:
        """Hear all that was said."""
        tickets, self._unheard = self._unheard, []
        for ticket in tickets:
            self.gate.hear(ticket)
            of_program = [turn for turn, (program, _) in self.held.items() if program == ticket.program]
            self.answers += bool(of_program)
            if ticket.decision in ("admitted", "resumed"):
                for turn in of_program:
                    self._pass(turn)

    def let_all_go(self, reason: str = SLOW) -> None:
        """Nobody answered in time."""
        going = [(turn, program) for turn, (program, _) in self.held.items()]
        for turn, program in going:
            self._pass(turn)
            self.gate.hear(AdmissionTicket(program=program, decision="admitted"))
        for turn, program in going:
            self.said.passed(program, turn, reason, self.now_s)

    def restarted(self) -> None:
        """The control process is a new one."""
        self._unheard = []
        self.let_all_go(RESTARTED)
        self.tell()

    def tell(self) -> None:
        """All that it knows."""
        programs = [program_state(known, self._admission(known)) for known in reversed([*self.programs.newest()])]
        under_way = tuple(turn_state(turn, *begun) for turn, begun in self.anonymous.items())
        for part in state_parts("server", programs, (), under_way, self.settings):
            self.publish(msgspec.structs.replace(part, time_s=self.now_s))

    def _pass(self, turn: str) -> None:
        program, tokens = self.running[turn] = self.held.pop(turn)
        self._begin(self.programs.get(program), turn, tokens)

    def _admission(self, known: Program) -> str | None:
        if self.settings is None:
            return None
        if self.gate.has_place(known.program):
            return "admitted"
        return "paused" if self.gate.is_paused(known.program) else "waiting" if known.held else None


def serve(run: Run, source: str, capacity_tokens: int, policy: str = "footprint", **settings) -> Server:
    """A server that told its state to a control process, and hears it. ``settings``: more of its gate's."""
    asked = GateSettings(policy=policy, capacity_tokens=capacity_tokens, **settings)
    server = Server(source, lambda event: run.publish(source, event), asked)
    run.listeners.append(server.hear)
    server.tell()
    return server


def anything(server: Server, random: random.Random, steps: int, programs: int = 10, chats: float = 0.1) -> None:
    """Drive a server at random: parallel turns, failures, turns given up at the gate, tickets that come late or not in
    time, programs that end or go quiet. ``chats``: share of turns that are served as a mere chat's."""
    contexts = dict.fromkeys((f"p{n}" for n in range(programs)), 500)
    for step in range(steps):
        server.now_s += random.choice((0.0, 0.01, 0.3, 2.0, 40.0 if step % 37 == 0 else 0.5))
        server.prompt = random.random() < 0.7
        server.catch_up()
        under_way = [*server.running, *server.held]
        match random.randrange(9):
            case 0 | 1 | 2:
                program = random.choice((None, *contexts)) if random.random() < 0.3 else random.choice((*contexts,))
                server.turns += 1
                gated = program is None or random.random() >= chats
                server.submit(program, f"t{server.turns}", contexts.get(program, 3000), gated)
            case 3 | 4 | 5 if server.running:
                turn = random.choice((*server.running,))
                program, tokens = server.running[turn]
                output = random.choice((0, 40, 900))
                if program is not None:
                    contexts[program] = tokens + output + random.randrange(300)
                server.end(turn, output, last=random.random() < 0.1)
            case 6 if under_way:
                server.end(random.choice(under_way))
            case 7:
                server.close(random.choice((*contexts,)))
            case 8 if random.random() < 0.2:
                server.let_all_go()
            case 8 if random.random() < 0.1:
                server.tell()
    server.catch_up()
    server.prompt = True


def turn(server: Server, run: Run, program: str, name: str, *, tokens: int = 1000, tool: str = "ls") -> None:
    """A whole turn of an engine that is alone: 0.2 s in the queue, 0.3 s of prefill, 1 s of decode."""
    server.submit(program, name, tokens)
    engine = "engine:host:2:00000000"
    first = FirstToken(program=program, turn=name, prompt_tokens=tokens, queued_s=0.2, prefill_s=0.3)
    run.publish(engine, msgspec.structs.replace(first, time_s=server.now_s + 0.5))
    server.now_s += 1.5
    run.publish(engine, KvRetained(program=program, turn=name, pages=tokens, time_s=server.now_s - 0.01))
    server.end(name, 100, tools=(ToolUse("shell", tool),))


def rewritten(source: Path, target: Path, change: Callable[[Recorded], Recorded | None]) -> Path:
    """A recording with each message as ``change`` makes it; None leaves it out."""
    recorder = None
    for record in Recording(source):
        if isinstance(record, Session):
            if recorder is not None:
                recorder.close()
            recorder = Recorder(target, record)
        elif (record := change(record)) is not None:
            recorder.record(record.epoch, record.seq, record.topic_seq, record.at_s, record.payload)
    recorder.close()
    return target
