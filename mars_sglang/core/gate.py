"""The admission gate's bookkeeping: who is inside, who waits, and what each holds.

Pure: told of events with a time, answers with turns to let through. The control process runs one per server, and the
simulator the same; it knows nothing of sockets or HTTP.
"""

from collections.abc import Container, Iterable, KeysView, Mapping
from dataclasses import dataclass

from mars_sglang.core.policy import AdmissionPolicy
from mars_sglang.core.program import Answer, Program, ProgramTable
from mars_sglang.core.views import PoolView, ProgramView, ToolsView, TurnOutcome

#: Paused programs remembered as such. Programs of unmodified agents end up here when they are
#: over, so the number has to be bounded; the ones paused first are the likeliest to be gone.
MAX_PAUSED = 256


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """What the gate shares out, as the engine told it at its start."""

    capacity_tokens: int
    """KV tokens of the engine's pool (of all its data-parallel ranks)."""
    host_tokens: int = 0
    """KV tokens of the engine's host tier; 0 where there is none."""
    host_copies: bool = True
    """As in :class:`PoolView`."""
    engine_keeps: bool = False
    """Likewise."""

    def __post_init__(self):
        if self.capacity_tokens <= 0:
            raise ValueError(f"capacity_tokens is {self.capacity_tokens}; it has to be a positive number of KV tokens")
        if self.host_tokens < 0:
            raise ValueError(f"host_tokens is {self.host_tokens}; it has to be 0 or more")


@dataclass(frozen=True, slots=True)
class GateDecision:
    """What one run of the policy changed."""

    passed: tuple[str, ...]
    """Turns that go to the engine now, in order."""
    admitted: tuple[tuple[str, float], ...]
    """Programs that got a place, with the seconds that they waited for it."""
    paused: tuple[str, ...]
    """Programs that gave up their place inside a tool."""
    reasons: Mapping[str, str]
    """Why, by program, as far as the policy says."""

    def __bool__(self) -> bool:
        return bool(self.admitted or self.paused)


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
    host_tokens: int


class Gate:
    """Decides with an admission policy which turns pass.

    Args:
        policy: the admission policy.
        pool: what there is to share out.
    """

    def __init__(self, policy: AdmissionPolicy, pool: PoolFacts):
        self.policy = policy
        self.pool = pool
        self.tools: ToolsView | None = None
        """What the hosts of tools said last; set by whoever hears them."""
        self.prefill_token_s: float | None = None
        self.load_token_s: float | None = None
        """Prices as the engine learned them; set likewise."""
        self.programs = ProgramTable()
        # What the policy is shown is kept, and changed with the program: deciding costs nothing for one to which
        # nothing happened.
        self._admitted: dict[str, ProgramView] = {}
        self._waiting: dict[str, ProgramView] = {}
        self._paused: dict[str, None] = {}
        self._anonymous: dict[str, int] = {}

    def submit(
        self,
        program: str | None,
        turn_id: str,
        prompt_tokens: int,
        now_s: float,
        *,
        tenant: str = "",
        remaining_turns: float | None = None,
        passed: bool = False,
    ) -> bool:
        """A turn reached the gate. True: it passes at once; False: it is held.

        A held turn is let through by a later :meth:`decide`.

        Args:
            remaining_turns: of the program after this one, as its client says.
            passed: it went to the engine without being asked for: its program has a place now, whatever it had before.
        """
        if program is None:
            self._anonymous[turn_id] = prompt_tokens
            return True
        known = self.programs.touch(program, now_s)
        known.tenant = tenant or known.tenant
        if known.last_end_s is not None and not known.in_flight and not known.held:
            self.policy.observe_pause(known.view(), known.idle_s(now_s))
        if remaining_turns is not None:
            known.hear(remaining_turns=remaining_turns + 1)
        if not known.admitted and passed:
            self._enter(known, now_s)
        (known.begin if known.admitted else known.hold)(turn_id, prompt_tokens, now_s)
        self._show(known)
        return known.admitted

    def finish(
        self, program: str | None, turn_id: str, now_s: float, answer: Answer | None = None, *, last: bool = False
    ) -> bool:
        """A turn ended, failed, or its client went away, at the gate or behind it. Whether its program gave up a place.

        Args:
            answer: None where there is none.
            last: the client said that its program is over.
        """
        if self._anonymous.pop(turn_id, None) is not None:
            # It may be of a program, and passed without counting as its turn.
            return False
        known = self.programs.get(program) if program is not None else None
        if known is None:
            return False
        begun = known.in_flight.get(turn_id)
        before = known.context_tokens
        grown = known.end(turn_id, now_s, answer)
        self._show(known)
        if begun is not None and answer is not None and answer.cached_tokens is not None:
            expected = min(before, answer.prompt_tokens)
            outcome = TurnOutcome(
                program, answer.prompt_tokens, answer.cached_tokens, expected, answer.output_tokens, grown, begun[1]
            )
            self.policy.observe_turn(outcome, now_s)
        if last:
            return self.end(program, now_s, said=True)
        if known.admitted and not known.turns and not known.in_flight and not known.held:
            # Its only turn failed: nothing of it is in the cache, so it holds no place.
            self._leave(known)
            return True
        return False

    def end(self, program: str, now_s: float, *, said: bool) -> bool:
        """The program is over, or dormant. Whether it gave up a place; one with a turn in flight or held keeps it.

        Args:
            said: whether its client said so.
        """
        known = self.programs.get(program)
        if known is None or known.in_flight or known.held:
            return False
        had_a_place = known.admitted or known.paused
        if known.turns and had_a_place:
            self.policy.observe_over(known.view(), said, now_s)
        self._leave(known)
        return had_a_place

    def resident(self, program: str, tokens: int) -> None:
        """The engine says how much of a program's context is cached."""
        known = self.programs.get(program)
        if known is not None and not known.in_flight:
            known.hear(resident_tokens=tokens)
            self._show(known)

    def let_go(self, program: str, now_s: float) -> None:
        """Its held turns went to the engine without being let through: it has a place now."""
        if program in self._waiting:
            self._enter(self.programs.get(program), now_s)

    def restore(self, known: Program) -> None:
        """Take over a program as its server tells of it; of what was known only its history stays."""
        before = self.programs.get(known.program)
        if before is not None:
            known.inherit(before)
        self.programs.put(known)
        self._show(known)

    def restore_anonymous(self, turns: Iterable[tuple[str, int]]) -> None:
        """The turns without a program that are under way, and no others; each with its prompt tokens."""
        self._anonymous = dict(turns)

    def keep_only(self, programs: Container[str]) -> None:
        """Nothing more will be heard of any other program."""
        for program in [p for p in (*self._admitted, *self._waiting, *self._paused) if p not in programs]:
            for table in (self._admitted, self._waiting, self._paused):
                table.pop(program, None)
            self.programs.forget(program)

    def decide(self, now_s: float) -> GateDecision:
        """Run the policy."""
        admitted, waiting = list(self._admitted.values()), list(self._waiting.values())
        decision = self.policy.decide(admitted, waiting, self.pool_view(), now_s)
        gave_up: list[str] = []
        for program in decision.pause:
            inside = self._admitted.get(program)
            # A policy that pauses a program with work in flight would wedge it; it may not.
            if inside is not None and not inside.in_flight:
                paused = self.programs.get(program)
                paused.place(admitted=False, paused=True)
                self._show(paused)
                gave_up.append(program)
        passed: list[str] = []
        entered: list[tuple[str, float]] = []
        for program in decision.admit:
            held = self._waiting.get(program)
            if held is None:
                continue
            entered.append((program, max(0.0, now_s - held.waiting_since_s)))
            passed.extend(self._enter(self.programs.get(program), now_s))
        return GateDecision(tuple(passed), tuple(entered), tuple(gave_up), decision.reasons)

    def paused(self) -> Iterable[str]:
        """Programs whose KV goes first, oldest pause first."""
        return self._paused.keys()

    @property
    def waiting(self) -> KeysView[str]:
        """Programs of which a turn is held."""
        return self._waiting.keys()

    def footprint_tokens(self) -> int:
        """What the policy counts for the admitted programs, without anonymous requests."""
        return sum(map(self.policy.footprint_tokens, self._admitted.values()))

    def pool_view(self) -> PoolView:
        """As the policy sees it."""
        anonymous = sum(self._anonymous.values())
        in_flight = sum([p.context_tokens for p in self._admitted.values() if p.in_flight])
        return PoolView(
            capacity_tokens=self.pool.capacity_tokens,
            anonymous_tokens=anonymous,
            referenced_tokens=anonymous + in_flight,
            host_tokens=self.pool.host_tokens,
            host_copies=self.pool.host_copies,
            engine_keeps=self.pool.engine_keeps,
            prefill_token_s=self.prefill_token_s,
            load_token_s=self.load_token_s,
            tools=self.tools,
        )

    def snapshot(self) -> GateSnapshot:
        return GateSnapshot(
            admitted=len(self._admitted),
            waiting=len(self._waiting),
            paused=len(self._paused),
            known=len(self.programs),
            footprint_tokens=self.footprint_tokens(),
            anonymous_tokens=sum(self._anonymous.values()),
            capacity_tokens=self.pool.capacity_tokens,
            host_tokens=self.pool.host_tokens,
        )

    def _enter(self, known: Program, now_s: float) -> list[str]:
        passed = list(known.held)
        for turn_id, (tokens, _) in known.held.items():
            known.begin(turn_id, tokens, now_s)
        known.held.clear()
        known.place(admitted=True)
        self._show(known)
        return passed

    def _leave(self, known: Program) -> None:
        known.place(admitted=False)
        self._show(known)

    def _show(self, known: Program) -> None:
        """Put the program where it belongs by now. After everything that happens to it."""
        program, view = known.program, known.view()
        for table, belongs in ((self._admitted, known.admitted), (self._waiting, known.held)):
            if belongs:
                table[program] = view
            else:
                table.pop(program, None)
        if not known.paused:
            self._paused.pop(program, None)
            return
        self._paused[program] = None
        if len(self._paused) > MAX_PAUSED:
            oldest = next(iter(self._paused))
            del self._paused[oldest]
            if (gone := self.programs.get(oldest)) is not None:
                self._leave(gone)
