"""Builds recordings as a running system writes them: real order, real gate, real publishing code, virtual time."""

import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from mars_sglang.control.sequencer import Consumer, Ordered, Sequencer
from mars_sglang.core.gate import Gate
from mars_sglang.core.policy import admission_policy
from mars_sglang.core.program import ProgramTable
from mars_sglang.engine.identity import Identity
from mars_sglang.engine.server_stream import ServerStream
from mars_sglang.stream.codec import encode
from mars_sglang.stream.events import Event, FirstToken, KvRetained, ToolUse
from mars_sglang.stream.recording import Recorded, Recorder, Recording, Session

CONTROL = "control:host:1:00000000"

#: From one step of a server to the next on its event loop.
STEP_S = 1e-4


class Run:
    """One run of a control process that records."""

    def __init__(self, path: Path, consumers: Sequence[Consumer] = (), epoch: int = 1, speed: float = 1.0):
        self._order = Sequencer(epoch, CONTROL, consumers)
        self._recorder = Recorder(path, Session(epoch=epoch, source=CONTROL, speed=speed))
        self.numbers: Counter[str] = Counter()

    def publish(self, source: str, event: Event, at_s: float | None = None) -> None:
        """``at_s``: the control process's clock, where it is not the sender's."""
        self.numbers[source] += 1
        event = msgspec.structs.replace(event, source=source, source_seq=self.numbers[source])
        self._write(self._order.order(event, encode(event), event.time_s if at_s is None else at_s))

    def lose(self, source: str) -> None:
        """A message that did not arrive."""
        self.numbers[source] += 1

    def tick(self, now_s: float) -> None:
        self._write(self._order.tick(now_s))

    def flush(self) -> None:
        self._recorder.flush()

    def close(self) -> None:
        self._recorder.close()

    def _write(self, messages: list[Ordered]) -> None:
        for _, epoch, seq, topic_seq, at_s, payload, _ in messages:
            self._recorder.record(epoch, seq, topic_seq, at_s, payload)


class _SaidTo(ServerStream):
    """The server's own words, without its processes and sockets."""

    def __init__(self, publish: Callable[..., None], programs: ProgramTable):
        self._publish = publish
        self._programs = programs
        self.predictions = OrderedDict()


class Server:
    """A server process with a gate: says and does things in the order of ``engine/server_turns.py``.

    Args:
        publish: takes the source's events, stamped with a time.
        capacity_tokens: of its pool.
    """

    def __init__(self, publish: Callable[[Event], None], capacity_tokens: int):
        self.gate = Gate(admission_policy("mars"), capacity_tokens)
        self.said = _SaidTo(
            lambda event, **fields: publish(event(**fields) if isinstance(event, type) else event), self.gate.programs
        )
        self.now_s = 100.0
        self.turns = 0
        self.running: dict[str, tuple[str | None, int]] = {}
        self.held: dict[str, tuple[str | None, int]] = {}
        self.ungated: set[str] = set()

    def submit(self, program: str | None, turn: str, tokens: int, gated: bool = True) -> None:
        now_s = self.now_s
        self.said.submitted(Identity(program, gated=gated), turn, tokens, 100, now_s)
        if not gated:
            self.gate.submit(None, turn, tokens, now_s)
            self.gate.programs.touch(program, now_s).begin(turn, tokens)
            self.ungated.add(turn)
            self.running[turn] = (program, tokens)
        elif self.gate.submit(program, turn, tokens, now_s):
            self.running[turn] = (program, tokens)
        else:
            self.held[turn] = (program, tokens)
            self.decide()

    def end(self, turn: str, output_tokens: int = 0, last: bool = False, tools: tuple[ToolUse, ...] = ()) -> None:
        """``output_tokens``: 0 for a turn that failed or was given up."""
        program, tokens = self.running.pop(turn, None) or self.held.pop(turn)
        meta = {"prompt_tokens": tokens, "completion_tokens": output_tokens} if output_tokens else {}
        now_s = self.now_s
        self.said.ended(program, turn, now_s, meta, "stop" if output_tokens else "abort", tools, last)
        context_tokens = tokens + output_tokens if output_tokens else None
        if turn in self.ungated:
            self.gate.programs.get(program).end(turn, now_s, context_tokens)
        self.gate.finish(None if turn in self.ungated else program, turn, now_s, context_tokens, last)
        self.decide()
        if last and program is not None:
            self.said.program_ended(program, "final", now_s)

    def release(self, program: str) -> None:
        """The program is said to be over."""
        if self.gate.end(program):
            self.said.released(program, self.now_s)
            self.decide()

    def decide(self) -> None:
        self.now_s += STEP_S
        decision = self.gate.decide(self.now_s)
        if decision is None:
            return
        self.said.decided(self.gate, decision, self.now_s)
        for turn in decision.passed:
            self.running[turn] = self.held.pop(turn)


def anything(server: Server, random: random.Random, steps: int, programs: int = 10) -> None:
    """Drive a server at random: parallel turns, failures, turns given up at the gate, programs that end or go quiet."""
    contexts = dict.fromkeys((f"p{n}" for n in range(programs)), 500)
    for step in range(steps):
        server.now_s += random.choice((0.0, 0.01, 0.3, 2.0, 40.0 if step % 37 == 0 else 0.5))
        under_way = [*server.running, *server.held]
        match random.randrange(8):
            case 0 | 1 | 2:
                program = random.choice((None, *contexts)) if random.random() < 0.3 else random.choice((*contexts,))
                server.turns += 1
                gated = program is None or random.random() < 0.9
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
                server.release(random.choice((*contexts,)))
            case _:
                server.decide()


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
