"""Where the programs of one tenant and user stand in their histories, and which of them a prompt goes on from."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from mars_sglang.core.prompt import End, Prompt

#: What told which program a turn is of; :class:`mars_sglang.core.continuation.Match` explains them.
FIRST, ANSWER, RETRY, HISTORY, RESPONSE = "first", "answer", "retry", "history", "response"

#: Of a program, the last turns from which it is known to have gone on, two each.
MAX_PASSED = 256

#: Of a program, the last answers with calls by which it is told from one that went the same way.
MAX_CALLED = 64

_OWNERS = 40  # bits below the number of owners hold the sum of their serials


@dataclass(slots=True, eq=False)
class Program:
    """What is remembered of one."""

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
    """The same of the turn before the one in flight, should that fail."""
    failed: End | None = None
    """Where a prompt ends that got no answer."""
    said: int | None = None
    marks: array = field(default_factory=lambda: array("q"))
    passed: list[End] = field(default_factory=list)
    """Where its earlier prompts, and the turns that they continued, ended."""
    called: list[int] = field(default_factory=list)
    """Answers with calls that it has sent, by :attr:`mars_sglang.core.prompt.Prompt.called`; the last of them."""
    responses: list[str] = field(default_factory=list)

    def size(self) -> int:
        return len(self.marks) + len(self.passed) + len(self.called)


class Ends:
    """Programs by where they end. Tails are looked up by their lengths, so many at one mark cost little."""

    def __init__(self) -> None:
        self._programs: dict[End, list[Program]] = {}
        self._sizes: dict[int, dict[int, int]] = {}

    def add(self, end: End, program: Program) -> None:
        self._programs.setdefault(end, []).append(program)
        sizes = self._sizes.setdefault(end.mark, {})
        sizes[len(end.tail)] = sizes.get(len(end.tail), 0) + 1

    def discard(self, end: End | None, program: Program) -> None:
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

    def at(self, end: End) -> Sequence[Program]:
        return self._programs.get(end, ())

    def continued(self, prompt: Prompt, marks: Sequence[int]) -> Sequence[Program]:
        """Those of the longest history that ``prompt`` goes on from, in the order in which they came there."""
        for index, mark in enumerate(marks):
            for size in sorted(self._sizes.get(mark, ()), reverse=True):
                tail = prompt.behind(index, size)
                if tail is not None and (found := self._programs.get(End(mark, tail))):
                    return found
        return ()


class Group:
    """The programs of one tenant and user; nothing is ever looked up across groups."""

    def __init__(self) -> None:
        self.programs: dict[int, Program] = {}
        self.asked = Ends()
        self.ended = Ends()
        self.failed = Ends()
        self.said: dict[int, list[Program]] = {}
        self.owners: dict[int, int] = {}
        """By mark, how many programs have it in their latest prompt, and the sum of their serials."""
        self.passed: dict[End, int] = {}
        self.callers: dict[int, list[Program]] = {}
        """Programs by the answers with calls that they have sent."""
        self.responses: dict[str, Program] = {}

    def find(self, prompt: Prompt) -> tuple[Program, str] | None:
        if prompt.follows is not None:
            named = self.responses.get(prompt.follows)
            return (named, RESPONSE) if named is not None else None
        if failed := self.failed.at(prompt.end):
            return failed[0], RETRY
        if ended := self.ended.continued(prompt, prompt.turns_end):
            return self._next_of(ended, prompt)
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

    def _next_of(self, ended: Sequence[Program], prompt: Prompt) -> tuple[Program, str] | None:
        """Of the programs that stand where the prompt goes on from, the one whose it is."""
        program = ended[0]
        before = self.callers.get(prompt.called_before, ())
        if len(before) == 1:
            # Only one agent has these ids; where it stands elsewhere, this is none of those who stand here.
            if before[0] not in ended:
                return None
            program = before[0]
        if prompt.called is not None and prompt.called not in self.callers:
            return program, ANSWER  # nobody has sent this answer before, so nobody has come back to it
        return None if self._rolled_back(prompt, program) else (program, ANSWER)

    def _has_twin(self, program: Program) -> bool:
        """One of two programs has sent the other's latest prompt: rewritten histories of these are alike."""
        return self._by_others(self.passed, program.asked, program) or any(
            other is not program for end in program.passed for other in self.asked.at(end)
        )

    def _rolled_back(self, prompt: Prompt, program: Program) -> bool:
        """Another program has gone on from here already, but not with this prompt: it may have come back to do so.

        Where it went on with this very prompt, ``program`` merely lags behind one like it.
        """
        if self._by_others(self.passed, prompt.end, program):
            return False
        itself = (None, (1 << _OWNERS) + program.serial)
        beyond = prompt.beyond(program.ended)
        return self.owners.get(beyond) not in itself or self._by_others(self.passed, program.ended, program)

    @staticmethod
    def _by_others(passed: dict[End, int], end: End, program: Program) -> bool:
        return end in passed and passed[end] > program.passed.count(end)

    def go_on(self, program: Program, prompt: Prompt) -> None:
        """The program asks: notes what it went on from, and with what."""
        for end in (program.ended, prompt.end):
            if end is not None:
                program.passed.append(end)
                self.passed[end] = self.passed.get(end, 0) + 1
        self._forget_passed(program, len(program.passed) - MAX_PASSED)
        if prompt.called is not None and prompt.called not in program.called:
            program.called.append(prompt.called)
            self.callers.setdefault(prompt.called, []).append(program)
        self._forget_called(program, len(program.called) - MAX_CALLED)
        self.settle(program)
        self.asked.discard(program.asked, program)
        program.asked = prompt.end
        self.asked.add(prompt.end, program)
        self.own(program, prompt.marks)

    def _forget_passed(self, program: Program, number: int) -> None:
        for end in program.passed[: max(0, number)]:
            self.passed[end] -= 1
            if not self.passed[end]:
                del self.passed[end]
        del program.passed[: max(0, number)]

    def _forget_called(self, program: Program, number: int) -> None:
        for call in program.called[: max(0, number)]:
            callers = self.callers[call]
            callers.remove(program)
            if not callers:
                del self.callers[call]
        del program.called[: max(0, number)]

    def own(self, program: Program, marks: Sequence[int]) -> None:
        old = program.marks
        same = len(old) if old and len(marks) >= len(old) and marks[len(old) - 1] == old[-1] else 0
        self._disown(program, old[same:])
        one = (1 << _OWNERS) + program.serial
        for mark in marks[same:]:
            self.owners[mark] = self.owners.get(mark, 0) + one
        program.marks = old[:same] + array("q", marks[same:])

    def _disown(self, program: Program, marks: Sequence[int]) -> None:
        one = (1 << _OWNERS) + program.serial
        for mark in marks:
            left = self.owners[mark] - one
            if left:
                self.owners[mark] = left
            else:
                del self.owners[mark]

    def settle(self, program: Program) -> None:
        """Takes it out of where it waits to be continued."""
        self.ended.discard(program.ended, program)
        self.failed.discard(program.failed, program)
        if program.said is not None:
            programs = self.said[program.said]
            programs.remove(program)
            if not programs:
                del self.said[program.said]
        program.ended = program.failed = program.said = None

    def remove(self, program: Program) -> None:
        self.settle(program)
        self.asked.discard(program.asked, program)
        self._disown(program, program.marks)
        self._forget_passed(program, len(program.passed))
        self._forget_called(program, len(program.called))
        for response in program.responses:
            self.responses.pop(response, None)
        del self.programs[program.serial]
