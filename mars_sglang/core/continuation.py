"""Which program a turn is of when its client sends no id: the one whose last turn its prompt continues.

Precision goes before recall: a turn that could be of two programs is taken for a new one. A wrong
guess may cost time and never an answer. ``docs/identity.md`` gives the rules and figures.
"""

from collections import OrderedDict
from typing import NamedTuple

from mars_sglang.core.histories import ANSWER, FIRST, HISTORY, RESPONSE, RETRY, Group, Program
from mars_sglang.core.prompt import Answer, Prompt

__all__ = ["ANSWER", "FIRST", "HISTORY", "RESPONSE", "RETRY", "Continuations", "Match"]

#: Programs remembered. Ended ones stay until they are the oldest, for nobody says that they ended.
MAX_PROGRAMS = 4096
#: Marks remembered of all programs: about 60 MB at 120 bytes each.
MAX_MARKS_IN_ALL = 500_000
#: Responses of a program that a client may refer to by id.
MAX_RESPONSES = 8


class Match(NamedTuple):
    """The program of a turn."""

    program: str
    how: str
    """``first``: of a new program; else what told: the whole last turn, a failed one that is tried
    again, a part of the history, or the response that the client names."""
    turns: int
    """Turns of it that ended before."""


class Continuations:
    """Programs of clients that send no id.

    A turn goes through :meth:`begin` and then :meth:`ended` or :meth:`failed`, which have to be
    called before its client can see that the turn is over, or its next one comes too early.

    Args:
        label: opens the ids of new programs, ``label/1``, ``label/2``, ...; a process gives one
            that no other has used. Ids depend on the order of calls and on nothing else.
        max_programs: how many are remembered; past it the one not heard from for longest goes.
        max_marks: the same for all their marks.
    """

    def __init__(
        self, label: str = "continuation", max_programs: int = MAX_PROGRAMS, max_marks: int = MAX_MARKS_IN_ALL
    ):
        self._label = label
        self._max_programs = max_programs
        self._max_marks = max_marks
        self._programs: OrderedDict[str, Program] = OrderedDict()
        self._groups: dict[str, Group] = {}
        self._serial = 0
        self._marks = 0

    def __len__(self) -> int:
        return len(self._programs)

    def begin(self, group: str, prompt: Prompt) -> Match:
        """A turn begins: of the program that it continues, else of a new one.

        Args:
            group: tenant and user. A turn never continues one of another group.
        """
        within = self._groups.get(group)
        if within is None:
            within = self._groups[group] = Group()
        program, how = within.find(prompt) or (self._new(group, within, prompt), FIRST)
        self._programs.move_to_end(program.id)
        program.ended_before = program.ended or program.ended_before
        self._marks -= program.size()
        within.go_on(program, prompt)
        self._marks += program.size()
        program.in_flight += 1
        match = Match(program.id, how, program.turns)
        while len(self._programs) > self._max_programs or (self._marks > self._max_marks and len(self._programs) > 1):
            self.forget(next(iter(self._programs)))
        return match

    def ended(self, program: str, prompt: Prompt, answer: Answer | None, response: str | None = None) -> None:
        """A turn has its answer. A program that was forgotten meanwhile stays so.

        Args:
            prompt: the one given to :meth:`begin`.
            answer: None where it cannot be compared: the model's text was not parsed, say.
            response: id by which a client may refer to it.
        """
        known = self._programs.get(program)
        if known is None:
            return
        self._programs.move_to_end(program)
        within = self._groups[known.group]
        known.in_flight = max(0, known.in_flight - 1)
        known.turns += 1
        known.ended_before = None
        within.settle(known)
        if answer is not None:
            known.ended = prompt.with_answer(answer)
            known.said = prompt.with_said(answer)
            if known.said is not None:
                within.said.setdefault(known.said, []).append(known)
        if known.ended is not None:
            within.ended.add(known.ended, known)
        if response is not None:
            known.responses.append(response)
            within.responses[response] = known
            if len(known.responses) > MAX_RESPONSES:
                within.responses.pop(known.responses.pop(0), None)

    def failed(self, program: str, prompt: Prompt) -> None:
        """A turn ended without its answer reaching the client: it may come again, or the history go on without it."""
        known = self._programs.get(program)
        if known is None:
            return
        within = self._groups[known.group]
        known.in_flight = max(0, known.in_flight - 1)
        if known.in_flight:
            return
        within.settle(known)
        known.failed = prompt.end
        within.failed.add(prompt.end, known)
        if known.ended_before is not None:
            known.ended = known.ended_before
            within.ended.add(known.ended, known)

    def forget(self, program: str) -> None:
        """The program is over, or room is needed."""
        known = self._programs.pop(program, None)
        if known is None:
            return
        within = self._groups[known.group]
        size = known.size()
        within.remove(known)
        self._marks -= size
        if not within.programs:
            del self._groups[known.group]

    def _new(self, group: str, within: Group, prompt: Prompt) -> Program:
        self._serial += 1
        program = Program(f"{self._label}/{self._serial}", self._serial, group, prompt.beginning)
        self._programs[program.id] = program
        within.programs[program.serial] = program
        return program
