"""Which program a turn is of when its client sends no id: the one whose last turn its prompt continues.

Precision goes before recall: a turn that could be of two programs is taken for a new one. A wrong
guess may cost time and never an answer. ``docs/identity.md`` gives the rules and figures.
"""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mars_sglang.core.prompt import Answer, End, Prompt

#: Programs remembered. Ended ones stay until they are the oldest, for nobody says that they ended.
MAX_PROGRAMS = 4096
#: Marks remembered of all programs: about 60 MB at 120 bytes each.
MAX_MARKS_IN_ALL = 500_000
#: Of a program, the last turns from which it is known to have gone on, two each.
MAX_PASSED = 256
#: Responses of a program that a client may refer to by id.
MAX_RESPONSES = 8

#: ``how`` of a :class:`Match`.
FIRST, ANSWER, RETRY, HISTORY, RESPONSE = "first", "answer", "retry", "history", "response"

_OWNERS = 40  # bits below the number of owners hold the sum of their serials


class Match(NamedTuple):
    """The program of a turn."""

    program: str
    how: str
    """``first``: of a new program; else what told: the whole last turn, a failed one that is tried
    again, a part of the history, or the response that the client names."""
    turns: int
    """Turns of it that ended before."""


@dataclass(slots=True, eq=False)
class _Program:
    id: str
    serial: int
    group: str
    beginning: int
    in_flight: int = 0
    turns: int = 0
    asked: End | None = None
    """Where its latest prompt ends."""
    ended: End | None = None
    """Where its last turn ends, while no turn is in flight."""
    ended_before: End | None = None
    failed: End | None = None
    said: int | None = None
    marks: array = field(default_factory=lambda: array("q"))
    passed: list[End] = field(default_factory=list)
    """Where its earlier prompts, and the turns that they continued, ended."""
    responses: list[str] = field(default_factory=list)

    def size(self) -> int:
        return len(self.marks) + len(self.passed)


class _Ends:
    """Programs by where they end. Tails are looked up by their lengths, so many at one mark cost little."""

    def __init__(self) -> None:
        self._programs: dict[End, list[_Program]] = {}
        self._sizes: dict[int, dict[int, int]] = {}

    def add(self, end: End, program: _Program) -> None:
        self._programs.setdefault(end, []).append(program)
        sizes = self._sizes.setdefault(end.mark, {})
        sizes[len(end.tail)] = sizes.get(len(end.tail), 0) + 1

    def discard(self, end: End | None, program: _Program) -> None:
        programs = self._programs.get(end) if end is not None else None
        if not programs or program not in programs:
            return
        programs.remove(program)
        if not programs:
            del self._programs[end]
        sizes = self._sizes[end.mark]
        size = len(end.tail)
        sizes[size] -= 1
        if not sizes[size]:
            del sizes[size]
            if not sizes:
                del self._sizes[end.mark]

    def at(self, end: End) -> Sequence[_Program]:
        return self._programs.get(end, ())

    def continued(self, prompt: Prompt, marks: Sequence[int]) -> Sequence[_Program]:
        """Those of the longest history that ``prompt`` goes on from, in the order in which they came there."""
        for index, mark in enumerate(marks):
            for size in sorted(self._sizes.get(mark, ()), reverse=True):
                tail = prompt.behind(index, size)
                if tail is not None and (found := self._programs.get(End(mark, tail))):
                    return found
        return ()


class _Group:
    """The programs of one tenant and user; nothing is ever looked up across groups."""

    def __init__(self) -> None:
        self.programs: dict[int, _Program] = {}
        self.asked = _Ends()
        self.ended = _Ends()
        self.failed = _Ends()
        self.said: dict[int, list[_Program]] = {}
        self.owners: dict[int, int] = {}
        """By mark, how many programs have it in their latest prompt, and the sum of their serials."""
        self.passed: dict[End, int] = {}
        self.responses: dict[str, _Program] = {}

    def find(self, prompt: Prompt) -> tuple[_Program, str] | None:
        if prompt.follows is not None:
            named = self.responses.get(prompt.follows)
            return (named, RESPONSE) if named is not None else None
        if failed := self.failed.at(prompt.end):
            return failed[0], RETRY
        if ended := self.ended.continued(prompt, prompt.turns_end):
            return None if self._rolled_back(prompt, ended[0]) else (ended[0], ANSWER)
        candidates = {program.serial: program for program in self.asked.continued(prompt, prompt.prompts_end)}
        candidates |= {program.serial: program for program in self.said.get(prompt.said, ())}
        for depth in range(len(prompt.marks), 0, -1):
            owners = self.owners.get(prompt.marks[depth - 1])
            if owners is None:
                continue
            if owners >> _OWNERS == 1:
                owner = self.programs[owners & ((1 << _OWNERS) - 1)]
                if depth > owner.beginning:
                    candidates[owner.serial] = owner
            elif prompt.marks[depth - 1] == prompt.spoken:
                return None  # several went on from exactly here; any of them may have come back
            break
        if len(candidates) != 1:
            return None
        (program,) = candidates.values()
        if program.in_flight or prompt.end in self.passed or self._has_twin(program):
            return None
        return program, HISTORY

    def _has_twin(self, program: _Program) -> bool:
        """One of two programs has sent the other's latest prompt: rewritten histories of these are alike."""
        return self._by_others(self.passed, program.asked, program) or any(
            other is not program for end in program.passed for other in self.asked.at(end)
        )

    def _rolled_back(self, prompt: Prompt, program: _Program) -> bool:
        """Another program has gone on from here already, but not with this prompt: it may have come back to do so.

        Where it went on with this very prompt, ``program`` merely lags behind one like it.
        """
        if self._by_others(self.passed, prompt.end, program):
            return False
        return prompt.spoken in self.owners or self._by_others(self.passed, program.ended, program)

    @staticmethod
    def _by_others(passed: dict[End, int], end: End, program: _Program) -> bool:
        return end in passed and passed[end] > program.passed.count(end)

    def go_on(self, program: _Program, prompt: Prompt) -> None:
        """The program asks: notes what it went on from, and with what."""
        for end in (program.ended, prompt.end):
            if end is not None:
                program.passed.append(end)
                self.passed[end] = self.passed.get(end, 0) + 1
        self._forget_passed(program, len(program.passed) - MAX_PASSED)
        self.settle(program)
        self.asked.discard(program.asked, program)
        program.asked = prompt.end
        self.asked.add(prompt.end, program)
        self.own(program, prompt.marks)

    def _forget_passed(self, program: _Program, number: int) -> None:
        for end in program.passed[: max(0, number)]:
            self.passed[end] -= 1
            if not self.passed[end]:
                del self.passed[end]
        del program.passed[: max(0, number)]

    def own(self, program: _Program, marks: Sequence[int]) -> None:
        old = program.marks
        same = len(old) if old and len(marks) >= len(old) and marks[len(old) - 1] == old[-1] else 0
        self._disown(program, old[same:])
        one = (1 << _OWNERS) + program.serial
        for mark in marks[same:]:
            self.owners[mark] = self.owners.get(mark, 0) + one
        program.marks = old[:same] + array("q", marks[same:])

    def _disown(self, program: _Program, marks: Sequence[int]) -> None:
        one = (1 << _OWNERS) + program.serial
        for mark in marks:
            left = self.owners[mark] - one
            if left:
                self.owners[mark] = left
            else:
                del self.owners[mark]

    def settle(self, program: _Program) -> None:
        """Takes it out of where it waits to be continued."""
        self.ended.discard(program.ended, program)
        self.failed.discard(program.failed, program)
        if program.said is not None:
            programs = self.said[program.said]
            programs.remove(program)
            if not programs:
                del self.said[program.said]
        program.ended = program.failed = program.said = None

    def remove(self, program: _Program) -> None:
        self.settle(program)
        self.asked.discard(program.asked, program)
        self._disown(program, program.marks)
        self._forget_passed(program, len(program.passed))
        for response in program.responses:
            self.responses.pop(response, None)
        del self.programs[program.serial]


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
        self._programs: OrderedDict[str, _Program] = OrderedDict()
        self._groups: dict[str, _Group] = {}
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
            within = self._groups[group] = _Group()
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

    def _new(self, group: str, within: _Group, prompt: Prompt) -> _Program:
        self._serial += 1
        program = _Program(f"{self._label}/{self._serial}", self._serial, group, prompt.beginning)
        self._programs[program.id] = program
        within.programs[program.serial] = program
        return program
