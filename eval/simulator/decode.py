"""Runs of decode steps in one go: their total time, and how many end before a given time.

The time of a step is the larger of two linear functions of the context, so it is convex in it. Where a convex function
meets its chord in the middle it is linear between the ends, and a run of steps sums to the mean of its first and
last; elsewhere the run is halved.
"""

from __future__ import annotations

from mars_sglang.core.cost_model import CostModel

_EXACT = 1e-9


def decode_s(cost: CostModel, rows: int, context: int, steps: int) -> float:
    """Seconds of ``steps`` decode steps of the same ``rows``, whose contexts sum to ``context`` in the first."""
    if steps <= 2:
        return sum(cost.decode_step_s(rows, context + step * rows) for step in range(steps))
    first = cost.decode_step_s(rows, context)
    last = cost.decode_step_s(rows, context + (steps - 1) * rows)
    half = steps // 2
    middle = cost.decode_step_s(rows, context + half * rows)
    chord = first + (last - first) * half / (steps - 1)
    if chord - middle <= _EXACT * middle:
        return steps * (first + last) / 2
    return decode_s(cost, rows, context, half) + decode_s(cost, rows, context + half * rows, steps - half)


def steps_until(cost: CostModel, rows: int, context: int, steps: int, seconds: float) -> int:
    """How many of ``steps`` decode steps to run until the first that ends ``seconds`` from now or later; 1 or more."""
    if decode_s(cost, rows, context, steps) <= seconds:
        return steps
    few, enough = 0, steps
    while enough - few > 1:
        middle = (few + enough) // 2
        if decode_s(cost, rows, context, middle) >= seconds:
            enough = middle
        else:
            few = middle
    return enough
