"""What is remembered of a program between its turns, and for how many programs."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from mars_sglang.core.views import ProgramHistory, ProgramView

#: Programs remembered at most. Ids come from clients, so the number has to be bounded; past
#: it the ones not heard from for longest are forgotten, which costs them their place only.
MAX_PROGRAMS = 100_000


#: Tools of one program that are told apart.
MAX_TOOLS = 32
#: What a turn without tools is followed by: a person, or nothing.
HUMAN = "human"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a turn ended with."""

    prompt_tokens: int
    output_tokens: int
    cached_tokens: int | None = None
    """Of the prompt, as the engine reports it; None where it does not."""
    tools: tuple[str, ...] = ()
    """Tools or shell commands that it called."""


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
    in_flight: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Prompt tokens of its turns that passed the gate and have not ended, and when they passed, by turn id."""
    held: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Prompt tokens and arrival of its turns that wait at the gate, by turn id."""
    admitted: bool = False
    paused: bool = False
    """It was admitted, and gave up its place inside a tool."""
    tenant: str = ""
    recognised_by: str | None = None
    """Where its id stood, or that it was recognised by what it continued."""
    parent: str | None = None
    """The program whose sub-agent it is."""
    tools: tuple = ()
    """What its last ended turn called."""
    ending: str | None = None
    """How somebody said that it is over while a turn of it was still under way; None if nobody did."""
    priority: int = 0
    """Of its last turn, in an engine that has priorities; smaller is more urgent."""
    first_tokens: int = 0
    shared_tokens: int = 0
    resident_tokens: int | None = None
    remaining_from: tuple[float, int] | None = None
    """Turns to come as the client said, and the turns that had ended by then."""
    _sums: tuple[int, int, int, float, int, float] = (0, 0, 0, 0.0, 0, 0.0)
    """Turns, output, growth, busy seconds, pauses, seconds of them: since we know it, which a restart may be after its
    first turn."""
    _tools: dict[str, int] = field(default_factory=dict)
    _view: ProgramView | None = None

    def begin(self, turn_id: str, prompt_tokens: int, now_s: float) -> None:
        """A turn of it goes to the engine."""
        if not (self.first_tokens or self.turns):
            self.first_tokens = prompt_tokens
        if not self.in_flight and self.last_end_s is not None:
            turns, output, grown, busy, pauses, paused_s = self._sums
            # What it waited at the gate is no pause of its own.
            asked_s = min((at for _, at in self.held.values()), default=now_s)
            self._sums = turns, output, grown, busy, pauses + 1, paused_s + max(0.0, asked_s - self.last_end_s)
        self.in_flight[turn_id] = prompt_tokens, now_s
        self._view = None

    def hold(self, turn_id: str, prompt_tokens: int, now_s: float) -> None:
        """A turn of it waits at the gate."""
        self.held[turn_id] = prompt_tokens, now_s
        self._view = None

    def end(self, turn_id: str, now_s: float, answer: Answer | None) -> int | None:
        """A turn came back from the engine, or left the gate; growth of the context in tokens where there was one
        before.

        Args:
            answer: None for a turn without one.
        """
        self._view = None
        self.held.pop(turn_id, None)
        begun = self.in_flight.pop(turn_id, None)
        if begun is None:
            return None
        self.last_end_s = now_s
        if answer is None:
            return None
        context_tokens = answer.prompt_tokens + answer.output_tokens
        growth = max(0, context_tokens - self.context_tokens) if self.turns else None
        if not self.turns and answer.cached_tokens:
            self.shared_tokens = answer.cached_tokens
        self.turns += 1
        self.context_tokens = context_tokens
        self.resident_tokens = None
        turns, output, grown, busy, pauses, paused_s = self._sums
        busy += max(0.0, now_s - begun[1])
        self._sums = turns + 1, output + answer.output_tokens, grown + (growth or 0), busy, pauses, paused_s
        for tool in answer.tools or (HUMAN,):
            if tool in self._tools or len(self._tools) < MAX_TOOLS:
                self._tools[tool] = self._tools.get(tool, 0) + 1
        return growth

    def called(self, tool: str) -> None:
        """Its last turn, of which nothing was known, called this tool."""
        if self._tools.get(HUMAN) and (tool in self._tools or len(self._tools) < MAX_TOOLS):
            self._tools[HUMAN] -= 1
            if not self._tools[HUMAN]:
                del self._tools[HUMAN]
            self._tools[tool] = self._tools.get(tool, 0) + 1
            self._view = None

    def place(self, *, admitted: bool, paused: bool = False) -> None:
        """It got a place, or gave it up."""
        self.admitted, self.paused = admitted, paused
        self._view = None

    def hear(self, *, remaining_turns: float | None = None, resident_tokens: int | None = None) -> None:
        """Take in what its client says, or the engine; None leaves things as they are."""
        if remaining_turns is not None:
            self.remaining_from = remaining_turns, self.turns
        if resident_tokens is not None:
            self.resident_tokens = resident_tokens
        self._view = None

    def inherit(self, before: "Program") -> None:
        """Take over what was learned of the same program before its server told of it again."""
        self.first_tokens, self.shared_tokens = before.first_tokens, before.shared_tokens
        self.remaining_from = before.remaining_from
        self._sums, self._tools = before._sums, before._tools
        self._view = None

    def view(self) -> ProgramView:
        """As a policy sees it. The same object until something happens to the program."""
        if self._view is None:
            self._view = self._look()
        return self._view

    def _look(self) -> ProgramView:
        remaining = None
        if self.remaining_from is not None:
            said, at = self.remaining_from
            remaining = max(0.0, said - (self.turns - at))
        history = None
        if self._sums[0]:
            turns, output, grown, busy, pauses, paused_s = self._sums
            history = ProgramHistory(turns, output, grown, busy, pauses, paused_s, tuple(sorted(self._tools.items())))
        return ProgramView(
            program=self.program,
            arrived_s=self.arrived_s,
            waiting_since_s=min((at for _, at in self.held.values()), default=None),
            in_flight=len(self.in_flight),
            context_tokens=max(self.context_tokens, self.need_tokens()),
            turns=self.turns,
            idle_since_s=None if self.in_flight else self.last_end_s,
            paused=self.paused,
            tenant=self.tenant,
            shared_tokens=self.shared_tokens,
            resident_tokens=self.resident_tokens,
            first_tokens=self.first_tokens or next((tokens for tokens, _ in self.held.values()), 0),
            history=history,
            remaining_turns=remaining,
        )

    def need_tokens(self) -> int:
        """Context that its present turns ask for; parallel turns count each on its own."""
        return sum(tokens for tokens, _ in self.in_flight.values()) + sum(tokens for tokens, _ in self.held.values())

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
            # Before it is there: of a table of busy programs it would be the one to go.
            self._forget_stale(self._max_programs - 1)
            known = self._programs[program] = Program(program, arrived_s=now_s)
        else:
            self._programs.move_to_end(program)
        return known

    def put(self, known: Program) -> None:
        """In the place of what was known of this program."""
        self._programs[known.program] = known
        self._programs.move_to_end(known.program)
        self._forget_stale(self._max_programs)

    def forget(self, program: str) -> None:
        """Whatever it does; nothing where it is not known."""
        self._programs.pop(program, None)

    def newest(self) -> Iterator[Program]:
        """Programs, the one heard from last first."""
        return reversed(self._programs.values())

    def _forget_stale(self, most: int) -> None:
        for program in list(self._oldest(len(self._programs) - most)):
            del self._programs[program]

    def _oldest(self, excess: int):
        for program, known in self._programs.items():
            if excess <= 0:
                return
            if not (known.in_flight or known.held or known.admitted):
                excess -= 1
                yield program
