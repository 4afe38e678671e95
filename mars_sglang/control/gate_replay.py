"""A server's admission gate once more, from what that server said on the stream."""

from typing import NamedTuple

import msgspec

from mars_sglang.core.gate import Gate
from mars_sglang.core.policy import admission_policy
from mars_sglang.core.program import ProgramTable
from mars_sglang.stream.events import AdmissionTicket, AdmissionWindow, Event, TurnEnded, TurnSubmitted
from mars_sglang.stream.gate_words import decided


class Answers(NamedTuple):
    """What one run of a decider said, live and replayed. Without the sender's name and numbers."""

    recorded: tuple[Event, ...]
    replayed: tuple[Event, ...]


class GateReplay:
    """The gate of one server process.

    A server says everything that it tells its gate, in order: a submitted turn, an ended one,
    a program that gave up its place (``released``). A window is one run of the policy, behind
    the tickets that it gave. All other events say nothing about the gate.

    A turn that is not ``gated`` is one without a program to the gate, and counts in the table
    of programs all the same.
    """

    def __init__(self):
        self._gate: Gate | None = None
        self._programs = ProgramTable()
        self._submitted: dict[str | None, TurnSubmitted] = {}
        """Turns under way before the first window, which tells policy and capacity."""
        self._ungated: set[str | None] = set()
        """Turns under way that have a program but not for the gate."""
        self._tickets: list[AdmissionTicket] = []

    def hear(self, event: Event) -> Answers | None:
        """Take in the server's next event; both answers where it is, or ends, a decision.

        Raises:
            ValueError: a window of a policy that is not known here, or without a capacity.
        """
        match event:
            case TurnSubmitted():
                self._submit(event)
            case TurnEnded():
                self._finish(event)
            case AdmissionTicket(decision="released"):
                gave_up = self._gate is not None and self._gate.end(event.program)
                return Answers((event,), (event,) if gave_up else ())
            case AdmissionTicket():
                self._tickets.append(event)
            case AdmissionWindow():
                recorded, self._tickets = (*self._tickets, event), []
                return Answers(recorded, self._decide(event))
        return None

    def _submit(self, event: TurnSubmitted) -> None:
        program = event.program
        if program is not None and not event.gated:
            self._programs.touch(program, event.time_s).begin(event.turn, event.prompt_tokens)
            self._ungated.add(event.turn)
            program = None
        self._enter(msgspec.structs.replace(event, program=program))

    def _enter(self, event: TurnSubmitted) -> None:
        if self._gate is None:
            self._submitted[event.turn] = event
        else:
            self._gate.submit(event.program, event.turn, event.prompt_tokens, event.time_s)

    def _finish(self, event: TurnEnded) -> None:
        program, context_tokens = event.program, event.prompt_tokens + event.output_tokens or None
        if event.turn in self._ungated:
            self._ungated.remove(event.turn)
            if (known := self._programs.get(program)) is not None:
                known.end(event.turn, event.time_s, context_tokens)
            program = None
        if self._gate is None:
            # No turn of a program has passed a gate that has not decided yet.
            self._submitted.pop(event.turn, None)
        else:
            self._gate.finish(
                program,
                event.turn,
                event.time_s,
                context_tokens,
                event.last,
                event.cached_tokens,
                event.output_tokens,
            )

    def _decide(self, window: AdmissionWindow) -> tuple[Event, ...]:
        if self._gate is None:
            self._gate = Gate(admission_policy(window.policy), window.capacity_tokens, self._programs)
            for event in self._submitted.values():
                self._enter(event)
            self._submitted.clear()
        decision = self._gate.decide(window.time_s)
        return () if decision is None else decided(self._gate, decision, window.time_s)
