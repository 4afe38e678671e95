"""How long a program takes with the engine to itself, by the cost model: what its slowdown is measured against.

A turn alone costs the chunks of its uncached prompt, a decode step for each further token, and its pause without
any wait for a slot. What the conversation keeps stays cached. Nothing else is counted: no queue, no network.
"""

from __future__ import annotations

from math import isclose

from eval.replay.record import recomputed
from eval.workload.program import Program, Turn
from mars_sglang.core.cost_model import CostModel, Profile


class Alone:
    """Times alone on one profile."""

    def __init__(self, profile: Profile) -> None:
        self._cost = CostModel(profile)
        self._chunk = profile.chunked_prefill_tokens

    def program_s(self, program: Program, max_pause_s: float) -> float:
        """Seconds from its arrival to its last response on an empty engine with a cold cache."""
        total, before = 0.0, None
        last = len(program.turns) - 1
        for number, turn in enumerate(program.turns):
            total += self.turn_s(turn.in_tokens, reusable(before, turn), turn.out_tokens)
            if number < last:
                total += turn.pause_s(max_pause_s)
            before = turn
        return total

    def turn_s(self, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> float:
        """Seconds of one turn: its prefill gives the first token, each further one a step."""
        total, done = 0.0, cached_tokens
        while done < prompt_tokens:
            chunk = min(self._chunk, prompt_tokens - done)
            total += self._cost.prefill_s(chunk, done)
            done += chunk
        return total + self._decode_s(prompt_tokens + 1, prompt_tokens + output_tokens - 1)

    def _decode_s(self, first: int, last: int) -> float:
        """Sum of the steps whose contexts are ``first`` to ``last`` tokens."""
        steps = last - first + 1
        if steps < 1:
            return 0.0
        ends = self._cost.decode_step_s(1, first) + self._cost.decode_step_s(1, last)
        if steps <= 2:
            return ends * steps / 2
        # A step is the larger of two straight lines in its context, so convex: with the middle on the chord, all is.
        middle = (first + last) / 2
        if isclose(self._cost.decode_step_s(1, middle), ends / 2, rel_tol=1e-9):
            return steps * ends / 2
        return self._decode_s(first, int(middle)) + self._decode_s(int(middle) + 1, last)


def reusable(before: Turn | None, turn: Turn) -> int:
    """Prompt tokens of ``turn`` whose KV an engine that forgets nothing has from the turn before it."""
    if before is None:
        return 0
    return recomputed(before.in_tokens + before.out_tokens, turn.kept_of(before), turn.in_tokens, 0)


def reusable_tokens(programs: tuple[Program, ...]) -> int:
    """Prompt tokens that a cache without limit finds, programs one after the other: most that can be cached.

    Programs share the beginning of the tool definitions and, where those are equally long, of the system prompt
    (as ``eval.replay.filler.SharedText`` writes them).
    """
    total = 0
    seen: list[tuple[int, int]] = []
    for program in programs:
        opening = (program.tool_tokens, program.system_tokens)
        shared = max((_common(opening, other) for other in seen), default=0)
        total += min(shared, program.turns[0].in_tokens - 1)
        if opening not in seen:
            seen.append(opening)
        total += sum(reusable(a, b) for a, b in zip(program.turns, program.turns[1:], strict=False))
    return total


def _common(a: tuple[int, int], b: tuple[int, int]) -> int:
    return a[0] + min(a[1], b[1]) if a[0] == b[0] else min(a[0], b[0])
