"""How long tools take, as published: TraceLab, 432 thousand tool calls (CC BY 4.0).

Published over all calls: mean 16.8 s, p50 0.3 s, p90 13.6 s, 70% under 1 s, 4.9% over 1 min. By class: shell
p50 0.85 s and p99 235 s (76% of calls); sub-agent p50 0.18 s and p99 600 s; writes 11%, reads and searches 9%.
The points between, and the classes without figures of their own, are chosen so that the mix meets those.
"""

from __future__ import annotations

import numpy as np

from eval.workload.quantiles import Quantiles

SHELL = "shell"

LATENCY_S: dict[str, Quantiles] = {
    SHELL: Quantiles(
        ((0, 0.02), (0.25, 0.05), (0.5, 0.85), (0.634, 1.0), (0.88, 13.6), (0.943, 60), (0.99, 235), (1, 2600))
    ),
    "write": Quantiles(((0, 0.005), (0.5, 0.03), (0.9, 0.3), (0.99, 2), (1, 10))),
    "read": Quantiles(((0, 0.005), (0.5, 0.05), (0.9, 0.5), (0.99, 4), (1, 20))),
    "agent": Quantiles(((0, 0.02), (0.5, 0.18), (0.8, 20), (0.99, 600), (1, 900))),
}
SHARE: dict[str, float] = {SHELL: 0.76, "write": 0.11, "read": 0.09, "agent": 0.04}


def draw_tools(rng: np.random.Generator, n: int) -> tuple[list[str], np.ndarray]:
    """``n`` tool classes and their seconds, in the published mix."""
    classes = list(LATENCY_S)
    picks = rng.choice(len(classes), size=n, p=[SHARE[name] for name in classes])
    shares = rng.random(n)
    seconds = np.empty(n)
    for index, name in enumerate(classes):
        mask = picks == index
        seconds[mask] = LATENCY_S[name].at(shares[mask])
    return [classes[index] for index in picks], seconds


def draw_seconds(rng: np.random.Generator, tool: str) -> float:
    """Seconds of one call of ``tool``; a class without figures of its own takes the shell's."""
    return float(LATENCY_S.get(tool, LATENCY_S[SHELL]).draw(rng, 1)[0])
