"""What is to come of each program, known from its recording: the price of the rest, its contexts and its pauses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eval.bounds.demand import LeastTurn, head_tokens, least_turns
from eval.bounds.terms import Terms
from eval.workload.program import Program
from mars_sglang.core.cost_model import Profile

LOOKAHEAD_TURNS = 3
"""Turns for which an admitted program's place is kept: the next one and two behind it, as :mod:`mars_sglang.core.gate`
keeps it for two turns of growth."""


class Foresight:
    """The rest of every program, by its id and the number of turns that have ended.

    Costs are seconds of the engine: of its GPU, and of its pool, where the whole pool for a second counts as a second.
    Both are what a turn takes while the pool is full, which is when an order matters.

    Args:
        max_pause_s: longest pause that is replayed.
    """

    def __init__(self, programs: Sequence[Program], profile: Profile, max_pause_s: float) -> None:
        self.terms = Terms(profile)
        self._rests = {program.id: _Rest(program, self.terms, max_pause_s) for program in programs}

    def knows(self, program: str | None) -> bool:
        return program in self._rests

    def over(self, program: str, turns: int) -> bool:
        """Whether no turn is left."""
        return turns >= self._rests[program].count

    def cost_s(self, program: str, turns: int) -> float:
        """Engine seconds of all turns left, each finding cached what can be, pauses included."""
        return self._rests[program].cost[self._at(program, turns)]

    def prefill_s(self, program: str, turns: int) -> float:
        """Of that, the prefill of the next turn."""
        return self._rests[program].prefill[self._at(program, turns)]

    def busy_s(self, program: str, turns: int) -> float:
        """Seconds that the turns left take on a full engine, without waiting."""
        return self._rests[program].busy[self._at(program, turns)]

    def tool_s(self, program: str, turns: int) -> float:
        """Seconds of tools left, those of the present pause included."""
        return self._rests[program].tools[self._at(program, turns)]

    def footprint_tokens(self, program: str, turns: int) -> int:
        """Largest context of the next :data:`LOOKAHEAD_TURNS` turns."""
        return int(self._rests[program].footprint[self._at(program, turns)])

    def pause_s(self, program: str, turns: int) -> float:
        """Length of the pause before the next turn, without waiting for a tool slot; 0 before the first."""
        return self._rests[program].pause[self._at(program, turns)]

    def again_s(self, tokens: int) -> float:
        """GPU seconds to compute a context of so many tokens once more."""
        return self.terms.compute_s(tokens, tokens)

    def held_s(self, tokens: int, seconds: float) -> float:
        """Pool seconds to hold so many tokens."""
        return tokens / self.terms.capacity_tokens * seconds

    def _at(self, program: str, turns: int) -> int:
        return min(turns, self._rests[program].count)


class _Rest:
    """Arrays over the number of turns ended, 0 to all of them."""

    def __init__(self, program: Program, terms: Terms, max_pause_s: float) -> None:
        turns = list(least_turns(program, max_pause_s))
        self.count = len(turns)
        costs = [_turn_cost(turn, head_tokens(program), terms) for turn in turns]
        pauses = [turn.pause_s for turn in turns]
        held = [
            min(pause / terms.capacity_tokens * next.kept_tokens, terms.compute_s(next.kept_tokens, next.kept_tokens))
            for pause, next in zip(pauses, turns[1:], strict=False)
        ]
        self.cost = _rest([engine + pause for (engine, _, _), pause in zip(costs, [*held, 0.0], strict=True)])
        self.busy = _rest([busy for _, busy, _ in costs])
        self.prefill = [prefill for _, _, prefill in costs] + [0.0]
        tools = [turn.pause_s if turn.tool else 0.0 for turn in turns]
        # The pause that follows turn k belongs to the rest after k as long as it is under way.
        self.tools = _rest([0.0, *tools])
        self.pause = [0.0, *pauses]
        contexts = [turn.prompt_tokens + turn.output_tokens for turn in turns]
        self.footprint = [max(contexts[k : k + LOOKAHEAD_TURNS], default=0) for k in range(self.count + 1)]


def _turn_cost(turn: LeastTurn, head: int, terms: Terms) -> tuple[float, float, float]:
    """Engine seconds, seconds on a full engine, and prefill seconds of one turn."""
    new = turn.prompt_tokens - turn.kept_tokens
    prefill_s = terms.compute_s(new, turn.prompt_tokens) + terms.overhead_s * new / terms.chunk_tokens
    contexts = np.arange(turn.prompt_tokens + 1, turn.prompt_tokens + turn.output_tokens)
    shares = np.maximum(0, contexts - head) / terms.capacity_tokens
    step_s = terms.weights_s(1) + terms.overhead_s
    full_step_s = step_s + terms.kv_s * terms.capacity_tokens
    decode_s = float((terms.kv_s * contexts + shares * step_s).sum())
    held_s = float(shares.sum()) * full_step_s
    return prefill_s + decode_s + held_s, prefill_s + len(contexts) * full_step_s, prefill_s


def _rest(values: Sequence[float]) -> list[float]:
    """Sums from each place to the end, and 0 behind it."""
    return [*np.cumsum(values[::-1])[::-1].tolist(), 0.0]
