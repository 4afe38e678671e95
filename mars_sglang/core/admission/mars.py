"""MARS's admission: residency, in the order of what a program will cost the engine, aged."""

from collections.abc import Sequence
from math import inf

from mars_sglang.core.admission.dormancy import DormancyAdmission
from mars_sglang.core.admission.footprint import (
    ALONE,
    DORMANT,
    FILL,
    FITS,
    LOOKAHEAD_TURNS,
    OVERFULL,
)
from mars_sglang.core.admission.passed_over import PassedOver
from mars_sglang.core.admission.tool_pressure import ToolPressure
from mars_sglang.core.dormancy import prefill_s
from mars_sglang.core.forecast import INDEX_MAX_S, Forecast, Rest, engine_s
from mars_sglang.core.kept import HOST_FILL
from mars_sglang.core.policy import register_admission_policy
from mars_sglang.core.views import AdmissionDecision, PoolView, ProgramView

#: Capacity given away where the engine keeps contexts itself, as a multiple of the GPU's. It knows better than a gate
#: what fits, so this only bounds how many turns can wait inside, all of which each pass looks at. Simulations: 24 is as
#: no gate; where two or three programs fit, or many short ones come, 6 is up to 1.2 times worse, and 1 up to 1.6 times.
OVERBOOK = 24.0

#: Programs admitted per one that keeps the tool slots busy: tools are not evenly spread over time.
CPU_SPARE = 1.5

#: Seconds for which overloaded hosts of tools hold a program, at most: a minute is what a queue takes to show that it
#: drains.
TOOLS_HOLD_S = 60.0

#: By objective: engine seconds that a second of age is worth, and the share of the capacity that is kept for those
#: that came first, in their order.
OBJECTIVES = {"mean": (0.03, 0.25), "balanced": (0.1, 0.5), "tail": (0.5, 0.75)}


@register_admission_policy
class MarsAdmission(DormancyAdmission):
    """Keep the admitted programs' KV within the capacity, and let those wait that cost most.

    - A program's **index** is what the engine has to do for it yet, in seconds, where the whole memory for a second
      counts as a second: turns to come times prefill and memory held, and what is to be computed again now. While
      hosts of tools are overloaded, its tool seconds count, as much as those of all do beside their engine seconds.
    - Waiting programs start by ``min(index, INDEX_MAX_S) - ageing x age``. The order of two that wait does not change
      by time alone, and one that fits is never passed by one that came :attr:`longest_pass_s` later.
    - The programs that came first, as many as fit into the objective's share of the capacity, come before all others,
      in the order in which they came, and are the last to be paused.
    - One that does not fit is passed by at most :data:`.passed_over.MAX_PASSED_OVER` others; then all wait with it.
    - Overloaded hosts of tools hold who would only lengthen their queue (:mod:`.tool_pressure`), for at most
      :data:`TOOLS_HOLD_S`, and cap how many run.
    - The capacity is the GPU's memory, or :data:`OVERBOOK` times as much where the engine keeps contexts itself. With a
      host tier it is that of both, where that is more, as a context in it costs a load and no prefill.
    - A dormant program gives its place to one that waits. Where growth overfilled the capacity, who is inside a tool is
      paused, the dormant first, then from the end of the order.

    Args:
        objective: of :data:`OBJECTIVES`.

    Raises:
        ValueError: another objective.
    """

    name = "mars"
    argument = "OBJECTIVE"
    optional = True

    def __init__(self, objective: str = "balanced"):
        super().__init__()
        if objective not in OBJECTIVES:
            raise ValueError(
                f"admission policy 'mars' with OBJECTIVE {objective!r}; accepted: {', '.join(OBJECTIVES)}, or none"
            )
        if objective != "balanced":
            self.name = f"mars:{objective}"
        self._ageing, self._eldest_share = OBJECTIVES[objective]
        self._forecast = Forecast()
        self._pressure = ToolPressure()
        self._passed_over = PassedOver()
        self._rests: dict[str, tuple[ProgramView, Rest, int]] = {}
        """What is expected of a program and its footprint, while its view stays the same."""
        self._version = self._forecast.version

    @classmethod
    def from_text(cls, text: str) -> "MarsAdmission":
        """The policy of ``mars:TEXT``. Raises ValueError."""
        return cls(text)

    @property
    def longest_pass_s(self) -> float:
        """Nobody who came so many seconds later starts before a waiting program that fits."""
        return INDEX_MAX_S / self._ageing

    def footprint_tokens(self, program: ProgramView) -> int:
        """What it holds of its own, and growth for :data:`LOOKAHEAD_TURNS` more turns."""
        return self._expect(program)[2]

    def observe_pause(self, program: ProgramView, seconds: float) -> None:
        super().observe_pause(program, seconds)
        self._forecast.observe_pause(program, seconds)

    def observe_silence(self, program: ProgramView) -> None:
        self._forecast.observe_over(program, said=False)

    def observe_over(self, program: ProgramView, said: bool, now_s: float) -> None:
        super().observe_over(program, said, now_s)
        self._forecast.observe_over(program, said)

    def decide(
        self,
        admitted: Sequence[ProgramView],
        waiting: Sequence[ProgramView],
        pool: PoolView,
        now_s: float,
    ) -> AdmissionDecision:
        self._pressure.observe(pool.tools)
        self._renew(len(admitted) + len(waiting))
        capacity = _capacity(pool)
        rests, expect = self._rests, self._expect
        feet: dict[str, int] = {}
        shared = 0
        for p in admitted:
            known = rests.get(p.program)
            if known is None or known[0] is not p:
                known = expect(p)
            feet[p.program] = known[2]
            if p.shared_tokens > shared:
                shared = p.shared_tokens
        # A prefix that programs share is there once.
        used = pool.anonymous_tokens + sum(feet.values()) + shared
        if not waiting and used <= capacity:
            return AdmissionDecision()
        least = inf
        for p in waiting:
            known = rests.get(p.program)
            if known is None or known[0] is not p:
                known = expect(p)
            feet[p.program] = known[2]
            if known[2] < least:
                least = known[2]
        silent = {p.program for p in self.dormant(admitted, pool, now_s)}
        spare = sum(feet[name] for name in silent)
        room = FILL * capacity
        inside = len(admitted)
        if used <= capacity and used - spare + least > room and inside > len(silent):
            return AdmissionDecision()

        keys, most = self._keys(admitted, waiting, feet, pool)
        idle = sorted((p for p in admitted if not p.in_flight), key=lambda p: (p.program in silent, keys[p.program]))
        pause: list[str] = []
        admit: list[str] = []
        reasons: dict[str, str] = {}

        def step_aside(p: ProgramView) -> None:
            nonlocal used, inside, spare
            pause.append(p.program)
            reasons[p.program] = DORMANT if p.program in silent else OVERFULL
            used -= feet[p.program]
            inside -= 1
            if p.program in silent:
                silent.discard(p.program)
                spare -= feet[p.program]

        while used > capacity and self._can_pause(idle, silent):
            step_aside(idle.pop())
        missed: list[str] = []
        for p in sorted(waiting, key=lambda p: keys[p.program]):
            need = feet[p.program]
            alone = inside == len(silent)
            if not alone and self._held_for_tools(p, pool, now_s):
                continue
            if not alone and (used - spare + need > room or inside - len(silent) >= most):
                missed.append(p.program)
                if self._passed_over.ends_queue(missed):
                    break
                continue
            while silent and (used + need > room or inside >= most):
                step_aside(idle.pop())
            admit.append(p.program)
            reasons[p.program] = FITS if inside else ALONE
            self._passed_over.count(missed)
            used += need
            inside += 1
        self._passed_over.settle(admit, waiting)
        return AdmissionDecision(pause=tuple(pause), admit=tuple(admit), reasons=reasons)

    def _held_for_tools(self, p: ProgramView, pool: PoolView, now_s: float) -> bool:
        since_s = now_s if p.waiting_since_s is None else p.waiting_since_s
        return now_s - since_s < TOOLS_HOLD_S and self._pressure.holds(p, pool.prefill_token_s)

    def _can_pause(self, idle: list[ProgramView], silent: set[str]) -> bool:
        """Whether the last of ``idle`` may give up its place because the capacity is overfull."""
        return bool(idle)

    def _renew(self, present: int) -> None:
        """Let go of what is no longer believed, and of programs that left."""
        if self._version != self._forecast.version or len(self._rests) > 2 * present + 64:
            self._version = self._forecast.version
            self._rests.clear()

    def _expect(self, p: ProgramView) -> tuple[ProgramView, Rest, int]:
        known = self._rests.get(p.program)
        if known is None or known[0] is not p:
            rest = self._forecast.rest(p)
            known = self._rests[p.program] = p, rest, self._footprint(p, rest)
        return known

    def _footprint(self, p: ProgramView, rest: Rest) -> int:
        return max(0, p.context_tokens - p.shared_tokens) + round(LOOKAHEAD_TURNS * rest.growth_tokens)

    def _keys(
        self, admitted: Sequence[ProgramView], waiting: Sequence[ProgramView], feet: dict[str, int], pool: PoolView
    ) -> tuple[dict[str, tuple], float]:
        """The order, first to start and last to be paused first, and how many programs the tools are worth."""
        present = [*admitted, *waiting]
        rests = {p.program: self._expect(p)[1] for p in present}
        engine = {p.program: engine_s(p, rests[p.program], pool) + _again_s(p, pool) for p in present}
        slots = pool.tools.slots if pool.tools is not None else 0
        tools_s = sum(rest.turns * rest.gap_s for rest in rests.values())
        share, most = 0.0, inf
        if slots and tools_s:
            if self._pressure.overloaded:
                share = tools_s / (tools_s + slots * sum(engine.values()))
            busy_s = sum(rest.turns * rest.busy_s for rest in rests.values())
            most = max(1.0, CPU_SPARE * slots * (busy_s + tools_s) / tools_s)
        keys: dict[str, tuple] = {}
        left = self._eldest_share * _capacity(pool)
        for p in sorted(present, key=lambda p: (p.arrived_s, p.program)):
            left -= feet[p.program]
            if left >= 0:
                keys[p.program] = 0, p.arrived_s, p.program
            else:
                rest = rests[p.program]
                tool_s = rest.turns * rest.gap_s / slots if slots else 0.0
                index = min(INDEX_MAX_S, (1 - share) * engine[p.program] + share * tool_s)
                keys[p.program] = 1, index + self._ageing * p.arrived_s, p.program
        return keys, most


def _capacity(pool: PoolView) -> float:
    """Tokens that are given away: what live contexts can hold in both tiers, or more than the GPU where the engine
    keeps."""
    host = HOST_FILL * pool.host_tokens + (0 if pool.host_copies else pool.capacity_tokens)
    return max((OVERBOOK if pool.engine_keeps else 1) * pool.capacity_tokens, host)


def _again_s(p: ProgramView, pool: PoolView) -> float:
    """Seconds of the engine to compute again, when a waiting program starts, what is not cached of its context."""
    if p.waiting_since_s is None:
        return 0.0
    return prefill_s(p.context_tokens, pool) - prefill_s(min(p.resident_tokens or 0, p.context_tokens), pool)
