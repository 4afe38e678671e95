"""The admission gate's bookkeeping: who is inside, who waits, and what each holds.

Pure: told of events with a time, answers with turns to let through. The server process
runs it today; it knows nothing of asyncio or HTTP, so it can move to the control process.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from mars_sglang.core.policy import AdmissionPolicy
from mars_sglang.core.program import GROWTH_WEIGHT, Program, ProgramTable
from mars_sglang.core.views import PoolView, ProgramView, ToolsView, TurnOutcome

#: Turns ahead for which an admitted program's growth is reserved. Simulations: 2 to 4 are
#: alike; the smallest leaves the least of the pool idle.
LOOKAHEAD_TURNS = 2

#: Paused programs remembered as such. Programs of unmodified agents end up here when they are
#: over, so the number has to be bounded; the ones paused first are the likeliest to be gone.
MAX_PAUSED = 256

#: Growth per turn in tokens that is assumed until turns were seen: the order of a tool
#: result plus an answer in the shared SWE-bench traces.
INITIAL_GROWTH_TOKENS = 600.0


@dataclass(frozen=True, slots=True)
class GateDecision:
    """What one run of the policy changed."""

    passed: tuple[str, ...]
    """Turns that go to the engine now, in order."""
    admitted: tuple[tuple[str, float], ...]
    """Programs that got a place, with the seconds that they waited for it."""
    paused: tuple[str, ...]
    """Programs that gave up their place inside a tool."""


@dataclass(frozen=True, slots=True)
class GateSnapshot:
    """Counts for a metric or a state page."""

    admitted: int
    waiting: int
    paused: int
    known: int
    footprint_tokens: int
    anonymous_tokens: int
    capacity_tokens: int


class Gate:
    """Decides with an admission policy which turns pass.

    Args:
        policy: the admission policy.
        capacity_tokens: KV tokens of the engine's pool (of all its data-parallel ranks).
        programs: the table to keep, where somebody else reads it too.
        host_tokens: KV tokens of the engine's host tier; 0 where there is none.

    Raises:
        ValueError: a capacity that is not positive.
    """

    def __init__(
        self,
        policy: AdmissionPolicy,
        capacity_tokens: int,
        programs: ProgramTable | None = None,
        host_tokens: int = 0,
    ):
        if capacity_tokens <= 0:
            raise ValueError(f"capacity_tokens is {capacity_tokens}; it has to be a positive number of KV tokens")
        self.policy = policy
        self.capacity_tokens = capacity_tokens
        self.host_tokens = host_tokens
        self.tools: ToolsView | None = None
        """What the hosts of tools said last; set by whoever hears them."""
        self.programs = ProgramTable() if programs is None else programs
        self._admitted: dict[str, Program] = {}
        self._waiting: dict[str, Program] = {}
        self._paused: dict[str, None] = {}
        self._anonymous: dict[str, int] = {}
        self._growth_tokens = INITIAL_GROWTH_TOKENS

    def submit(self, program: str | None, turn_id: str, prompt_tokens: int, now_s: float) -> bool:
        """A turn reached the gate. True: it passes at once; False: it is held.

        A held turn is let through by a later :meth:`decide`.
        """
        if program is None:
            self._anonymous[turn_id] = prompt_tokens
            return True
        known = self.programs.touch(program, now_s)
        if known.last_end_s is not None and not known.in_flight and not known.held:
            self.policy.observe_pause(known.idle_s(now_s))
        if known.admitted:
            known.begin(turn_id, prompt_tokens)
            return True
        known.held[turn_id] = (prompt_tokens, now_s)
        self._waiting[program] = known
        return False

    def finish(
        self,
        program: str | None,
        turn_id: str,
        now_s: float,
        context_tokens: int | None = None,
        last: bool = False,
        cached_tokens: int | None = None,
        output_tokens: int = 0,
    ) -> None:
        """A turn ended, failed, or its client went away, at the gate or behind it.

        Args:
            context_tokens: prompt plus output where the turn ended with an answer.
            last: the client said that its program is over.
            cached_tokens: of the prompt, as the engine reports it; None where it does not.
            output_tokens: of the answer.
        """
        if program is None:
            self._anonymous.pop(turn_id, None)
            return
        known = self.programs.get(program)
        if known is None:
            return
        was_held = known.held.pop(turn_id, None) is not None
        if was_held and not known.held:
            self._waiting.pop(program, None)
        if context_tokens is not None and cached_tokens is not None and turn_id in known.in_flight:
            prompt_tokens = context_tokens - output_tokens
            expected = min(known.context_tokens, prompt_tokens)
            self.policy.observe_turn(TurnOutcome(program, prompt_tokens, cached_tokens, expected, output_tokens), now_s)
        growth = known.end(turn_id, now_s, context_tokens)
        if growth is not None:
            self._growth_tokens += GROWTH_WEIGHT * (growth - self._growth_tokens)
        if last:
            self.end(program)
        elif known.admitted and not known.turns and not known.in_flight and not known.held:
            # Its only turn failed: nothing of it is in the cache, so it holds no place.
            self._leave(known)

    def end(self, program: str) -> bool:
        """The program is over, or dormant. Whether it gave up a place; one with a turn in flight or held keeps it."""
        known = self.programs.get(program)
        if known is None or known.in_flight or known.held:
            return False
        had_a_place = known.admitted or program in self._paused
        self._leave(known)
        self._paused.pop(program, None)
        return had_a_place

    def decide(self, now_s: float) -> GateDecision | None:
        """Run the policy; None where there was nothing to decide."""
        anonymous = sum(self._anonymous.values())
        asked = self._waiting or self.policy.every_event
        if not asked and self.footprint_tokens() + anonymous <= self.capacity_tokens:
            return None
        admitted = [self._view(p, now_s) for p in self._admitted.values()]
        waiting = [self._view(p, now_s) for p in self._waiting.values()]
        in_flight = sum(p.context_tokens for p in admitted if p.in_flight)
        pool = PoolView(self.capacity_tokens, anonymous, anonymous + in_flight, self.host_tokens, self.tools)
        decision = self.policy.decide(admitted, waiting, pool, now_s)
        gave_up: list[str] = []
        for program in decision.pause:
            paused = self._admitted.get(program)
            # A policy that pauses a program with work in flight would wedge it; it may not.
            if paused is not None and not paused.in_flight:
                self._leave(paused)
                self._paused[program] = None
                gave_up.append(program)
                if len(self._paused) > MAX_PAUSED:
                    del self._paused[next(iter(self._paused))]
        passed: list[str] = []
        entered: list[tuple[str, float]] = []
        for program in decision.admit:
            known = self._waiting.pop(program, None)
            if known is None:
                continue
            for other in self._waiting.values():
                if (other.arrived_s, other.program) < (known.arrived_s, program):
                    other.passed_over += 1
            entered.append((program, max(0.0, now_s - min(at for _, at in known.held.values()))))
            passed.extend(self._enter(known))
        return GateDecision(tuple(passed), tuple(entered), tuple(gave_up))

    def open(self) -> list[str]:
        """Let everything through, in order of arrival: the way out when deciding fails."""
        passed: list[str] = []
        for known in sorted(self._waiting.values(), key=lambda p: (p.arrived_s, p.program)):
            passed.extend(self._enter(known))
        self._waiting.clear()
        return passed

    def paused(self) -> Iterable[str]:
        """Programs whose KV goes first, oldest pause first."""
        return self._paused.keys()

    def has_waiting(self) -> bool:
        return bool(self._waiting)

    def footprint_tokens(self) -> int:
        """Footprint of the admitted programs, without anonymous requests."""
        return sum(map(_held, self._admitted.values())) + len(self._admitted) * self._ahead_tokens()

    def snapshot(self) -> GateSnapshot:
        return GateSnapshot(
            admitted=len(self._admitted),
            waiting=len(self._waiting),
            paused=len(self._paused),
            known=len(self.programs),
            footprint_tokens=self.footprint_tokens(),
            anonymous_tokens=sum(self._anonymous.values()),
            capacity_tokens=self.capacity_tokens,
        )

    def _enter(self, known: Program) -> list[str]:
        known.admitted = True
        known.passed_over = 0
        self._admitted[known.program] = known
        self._paused.pop(known.program, None)
        passed = list(known.held)
        for turn_id, (tokens, _) in known.held.items():
            known.begin(turn_id, tokens)
        known.held.clear()
        return passed

    def _leave(self, known: Program) -> None:
        known.admitted = False
        self._admitted.pop(known.program, None)

    def _ahead_tokens(self) -> int:
        return round(LOOKAHEAD_TURNS * self._growth_tokens)

    def _view(self, known: Program, now_s: float) -> ProgramView:
        held_tokens = _held(known)
        return ProgramView(
            program=known.program,
            arrived_s=known.arrived_s,
            waiting_since_s=min((at for _, at in known.held.values()), default=None),
            in_flight=len(known.in_flight),
            footprint_tokens=held_tokens + self._ahead_tokens(),
            idle_s=known.idle_s(now_s),
            turns=known.turns,
            passed_over=known.passed_over,
            context_tokens=held_tokens,
            paused=known.program in self._paused,
        )


def _held(known: Program) -> int:
    """KV that the program holds or asks for now, without growth."""
    return max(known.context_tokens, known.need_tokens())
