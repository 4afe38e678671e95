"""Policies that know the future of every program: a yardstick for those that do not.

The rule is that of a footprint gate with an index, where each prediction is replaced by what will happen.

    cost    engine seconds of the turns left: prefill, decode, and the pool held while they run; for a pause the
            cheaper of holding the context and computing it again
    admit   by cost, with the tool seconds left where tools are short, while the contexts of the next turns fit
    pause   what costs more to hold for the rest of its pause than to compute again, and, where the pool is too full
            or a much cheaper program waits, the costliest
    order   short remainders first, then by cost
    evict   programs that are over, then paused ones, then those inside a tool by what a token held until its next use
            saves, then those whose turn waits

It is not the best policy: it is greedy, and it knows neither how long a turn will queue nor how long a tool will.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import fsum

from eval.bounds.foresight import Foresight
from eval.workload.program import Program
from mars_sglang.core.admission.footprint import FILL
from mars_sglang.core.admission.passed_over import MAX_MISSES
from mars_sglang.core.cost_model import Profile
from mars_sglang.core.kept import HOST_FILL
from mars_sglang.core.policies.mars import MAX_PASSED_S
from mars_sglang.core.policy import BaseAdmissionPolicy, BaseTurnPolicy
from mars_sglang.core.views import (
    AdmissionDecision,
    ContextState,
    ContextView,
    PoolView,
    ProgramView,
    RunningView,
    TurnEnded,
    TurnEvent,
    TurnView,
)

NAME = "clairvoyant"

QUICK_TOKENS = 2048
"""A turn with no more than this to prefill goes first: the first level of the paper's preview."""

CPU_SPARE = 1.5
"""Programs admitted per one that keeps the tool slots busy: tools are not evenly spread over time."""

_LAST = float("inf")
_RECLAIM_RANK = {ContextState.PAUSED: 1, ContextState.TOOL: 2, ContextState.WAITING: 3}


def clairvoyant(
    programs: Sequence[Program], profile: Profile, max_pause_s: float = float("inf")
) -> tuple[ClairvoyantTurns, ClairvoyantAdmission]:
    """The two policies for a run of ``programs``, whose ids the views bear. New ones for every run: they count turns.

    Args:
        max_pause_s: longest pause that is replayed.
    """
    foresight = Foresight(programs, profile, max_pause_s)
    return ClairvoyantTurns(foresight), ClairvoyantAdmission(foresight)


class ClairvoyantTurns(BaseTurnPolicy):
    """Least cost left first; programs that nobody knows come last, by arrival."""

    name = NAME

    def __init__(self, foresight: Foresight) -> None:
        self._foresight = foresight
        # Known programs only, so the workload bounds it.
        self._ended: Counter[str] = Counter()

    def observe(self, event: TurnEvent, now_s: float) -> None:
        if isinstance(event, TurnEnded) and self._foresight.knows(event.program):
            self._ended[event.program] += 1

    def order_turns(self, turns: Sequence[TurnView], now_s: float) -> list[int]:
        def key(i: int):
            turn = turns[i]
            quick = turn.uncached_tokens <= QUICK_TOKENS or now_s - turn.arrived_s >= MAX_PASSED_S
            return turn.priority, not quick, self._turn_cost_s(turn), turn.arrived_s, turn.turn_id

        return sorted(range(len(turns)), key=key)

    def may_be_passed(self, turn: TurnView, now_s: float) -> bool:
        return now_s - turn.arrived_s < MAX_PASSED_S

    def order_reclaim(self, contexts: Sequence[ContextView], now_s: float) -> list[int]:
        def key(i: int):
            context = contexts[i]
            if not self._foresight.knows(context.program):
                return _RECLAIM_RANK[context.state], 0.0, -context.program_arrived_s, context.program
            if self._foresight.over(context.program, context.turns):
                return 0, 0.0, 0.0, context.program
            rank = _RECLAIM_RANK[context.state]
            worth = self._saved_s(context) if context.state == ContextState.TOOL else 0.0
            return rank, worth, -self._foresight.cost_s(context.program, context.turns), context.program

        return sorted(range(len(contexts)), key=key)

    def order_victims(self, running: Sequence[RunningView], now_s: float) -> list[int]:
        """The costliest program first: one order for everybody, so that two do not retract each other in turn."""

        def key(i: int):
            turn = running[i]
            return -turn.priority, -self._cost_s(turn.program), turn.output_tokens, turn.turn_id

        return sorted(range(len(running)), key=key)

    def _cost_s(self, program: str | None) -> float:
        return self._foresight.cost_s(program, self._ended[program]) if self._foresight.knows(program) else _LAST

    def _turn_cost_s(self, turn: TurnView) -> float:
        """Of the program, where the next turn has to prefill what is not cached now."""
        if not self._foresight.knows(turn.program):
            return _LAST
        least_s = self._foresight.prefill_s(turn.program, self._ended[turn.program])
        uncached_s = self._foresight.terms.compute_s(turn.uncached_tokens, turn.context_tokens)
        return self._cost_s(turn.program) + max(0.0, uncached_s - least_s)

    def _saved_s(self, context: ContextView) -> float:
        """GPU seconds that the context saves for each pool second until its next use."""
        left_s = max(0.0, self._foresight.pause_s(context.program, context.turns) - context.idle_s)
        held_s = self._foresight.held_s(context.tokens, left_s)
        return self._foresight.again_s(context.tokens) / held_s if held_s else _LAST


class ClairvoyantAdmission(BaseAdmissionPolicy):
    """Least cost left first, while the contexts of the next turns fit."""

    name = NAME

    def __init__(self, foresight: Foresight) -> None:
        self._foresight = foresight

    def decide(
        self,
        admitted: Sequence[ProgramView],
        waiting: Sequence[ProgramView],
        pool: PoolView,
        now_s: float,
    ) -> AdmissionDecision:
        over = sorted((p for p in admitted if self._over(p)), key=lambda p: p.program)
        inside = [p for p in admitted if not self._over(p)]
        present = [*inside, *waiting]
        slots = pool.tools.slots if pool.tools is not None else 0
        keys = self._keys(present, slots)
        most = self._cpu_cap(present, slots)
        # A written-through host tier holds copies, so the larger of the two holds the contexts.
        capacity = max(pool.capacity_tokens, HOST_FILL * pool.host_tokens)
        room = FILL * capacity
        used = pool.anonymous_tokens + sum(self._footprint(p) for p in inside)
        count = len(inside)
        pause = [p.program for p in over]
        admit: list[str] = []
        idle = [p for p in inside if not p.in_flight]
        # What does not pay to hold leads; the rest follows from the costliest program on.
        idle.sort(key=lambda p: (self._pays_to_hold(p, now_s), *_worst_first(keys[p.program])))

        def step_aside(p: ProgramView) -> None:
            nonlocal used, count
            idle.remove(p)
            pause.append(p.program)
            used -= self._footprint(p)
            count -= 1

        while used > capacity and idle:
            step_aside(idle[0])
        misses = 0
        for p in sorted(waiting, key=lambda p: keys[p.program]):
            need = self._footprint(p)
            yielding = [q for q in idle if self._yields(q, keys[q.program], keys[p.program], now_s)]
            spare = sum(self._footprint(q) for q in yielding)
            if count and (used - spare + need > room or count - len(yielding) >= most):
                misses += 1
                if misses >= MAX_MISSES:
                    break
                continue
            while yielding and (used + need > room or count >= most):
                step_aside(yielding.pop(0))
            admit.append(p.program)
            used += need
            count += 1
        return AdmissionDecision(pause=tuple(pause), admit=tuple(admit))

    def _yields(self, idle: ProgramView, idle_key: tuple, key: tuple, now_s: float) -> bool:
        """Whether a program inside a tool gives its place to one that waits: least cost left first, where changing
        over costs that its context is computed again."""
        lost_s = self._foresight.again_s(idle.context_tokens)
        return not self._pays_to_hold(idle, now_s) or idle_key[0] > key[0] + lost_s

    def _over(self, p: ProgramView) -> bool:
        known = self._foresight.knows(p.program)
        return known and not p.in_flight and self._foresight.over(p.program, p.turns)

    def _footprint(self, p: ProgramView) -> int:
        if not self._foresight.knows(p.program):
            return p.context_tokens
        return max(p.context_tokens, self._foresight.footprint_tokens(p.program, p.turns))

    def _keys(self, programs: Sequence[ProgramView], slots: int) -> dict[str, tuple]:
        """Costs of the programs, their tool seconds weighed in as far as those outweigh the engine's."""
        engine = {p.program: self._cost_s(p) for p in programs}
        tools = {p.program: self._tool_s(p) / slots if slots else 0.0 for p in programs}
        engine_s = fsum(cost for cost in engine.values() if cost < _LAST)
        tools_s = fsum(tools.values())
        share = tools_s / (engine_s + tools_s) if tools_s else 0.0
        return {
            p.program: ((1 - share) * engine[p.program] + share * tools[p.program], p.arrived_s, p.program)
            for p in programs
        }

    def _cost_s(self, p: ProgramView) -> float:
        if not self._foresight.knows(p.program):
            return _LAST
        lost_s = self._foresight.again_s(p.context_tokens) if p.paused else 0.0
        return self._foresight.cost_s(p.program, p.turns) + lost_s

    def _tool_s(self, p: ProgramView) -> float:
        return self._foresight.tool_s(p.program, p.turns) if self._foresight.knows(p.program) else 0.0

    def _pays_to_hold(self, p: ProgramView, now_s: float) -> bool:
        if not self._foresight.knows(p.program):
            return True
        left_s = max(0.0, self._foresight.pause_s(p.program, p.turns) - p.idle_s(now_s))
        held_s = self._foresight.held_s(p.context_tokens, left_s)
        return held_s <= self._foresight.again_s(p.context_tokens)

    def _cpu_cap(self, programs: Sequence[ProgramView], slots: int) -> float:
        """Programs at a time beyond which more would only queue for the tools."""
        known = [p for p in programs if self._foresight.knows(p.program)]
        tools_s = fsum(self._tool_s(p) for p in known)
        if not slots or not tools_s:
            return _LAST
        busy_s = fsum(self._foresight.busy_s(p.program, p.turns) for p in known)
        return max(1.0, CPU_SPARE * slots * (busy_s + tools_s) / tools_s)


def _worst_first(key: tuple) -> tuple:
    cost, arrived_s, program = key
    return -cost, -arrived_s, program
