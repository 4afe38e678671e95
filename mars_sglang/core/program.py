"""What is remembered of a program between its turns, and for how many programs."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

#: Programs remembered at most. Ids come from clients, so the number has to be bounded; past
#: it the ones not heard from for longest are forgotten, which costs them their place only.
MAX_PROGRAMS = 100_000

#: Weight of the newest turn in a moving average of growth (policy simulations: 0.02).
GROWTH_WEIGHT = 0.02


@dataclass(slots=True)
class Program:
    """One agent task, many turns. Mutable; policies see a frozen view of it."""

    program: str
    arrived_s: float
    turns: int = 0
    context_tokens: int = 0
    """Prompt plus output of its last ended turn."""
    last_end_s: float | None = None
    """When its last turn ended; None before the first."""
    in_flight: dict[str, int] = field(default_factory=dict)
    """Prompt tokens of its turns that passed the gate and have not ended, by turn id."""
    held: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Prompt tokens and arrival of its turns that wait at the gate, by turn id."""
    admitted: bool = False
    passed_over: int = 0
    recognised_by: str | None = None
    """Where its id stood, or that it was recognised by what it continued."""
    parent: str | None = None
    """The program whose sub-agent it is."""
    tools: tuple = ()
    """What its last ended turn called."""
    ending: str | None = None
    """How somebody said that it is over while a turn of it was still under way; None if nobody did."""

    def begin(self, turn_id: str, prompt_tokens: int) -> None:
        """A turn of it goes to the engine."""
        self.in_flight[turn_id] = prompt_tokens

    def end(self, turn_id: str, now_s: float, context_tokens: int | None) -> int | None:
        """A turn came back from the engine; growth of the context in tokens where there was one before.

        Args:
            context_tokens: prompt plus output; None for a turn without an answer.
        """
        if self.in_flight.pop(turn_id, None) is None:
            return None
        self.last_end_s = now_s
        if context_tokens is None:
            return None
        growth = max(0, context_tokens - self.context_tokens) if self.turns else None
        self.turns += 1
        self.context_tokens = context_tokens
        return growth

    def need_tokens(self) -> int:
        """Context that its present turns ask for; parallel turns count each on its own."""
        return sum(self.in_flight.values()) + sum(tokens for tokens, _ in self.held.values())

    def idle_s(self, now_s: float) -> float:
        if self.in_flight or self.last_end_s is None:
            return 0.0
        return max(0.0, now_s - self.last_end_s)


class ProgramTable:
    """Programs by id, least recently heard from first.

    Args:
        max_programs: how many are remembered. A program with a turn in flight or held is
            never forgotten, so the table may exceed this by the number of those.
    """

    def __init__(self, max_programs: int = MAX_PROGRAMS):
        self._programs: OrderedDict[str, Program] = OrderedDict()
        self._max_programs = max_programs

    def __len__(self) -> int:
        return len(self._programs)

    def get(self, program: str) -> Program | None:
        return self._programs.get(program)

    def touch(self, program: str, now_s: float) -> Program:
        """The program of this id, made if it is new, marked as heard from now."""
        known = self._programs.get(program)
        if known is None:
            known = self._programs[program] = Program(program, arrived_s=now_s)
            self._forget_stale()
        else:
            self._programs.move_to_end(program)
        return known

    def newest(self) -> Iterator[Program]:
        """Programs, the one heard from last first."""
        return reversed(self._programs.values())

    def _forget_stale(self) -> None:
        for program in list(self._oldest(len(self._programs) - self._max_programs)):
            del self._programs[program]

    def _oldest(self, excess: int):
        for program, known in self._programs.items():
            if excess <= 0:
                return
            if not (known.in_flight or known.held or known.admitted):
                excess -= 1
                yield program
