"""A figure over seeds, with how sure it is.

The unit is the seed: programs of one run wait for each other, so they are no independent samples of anything. With few
seeds the interval is Student's t; from :data:`BOOTSTRAP_SEEDS` on the percentile bootstrap over seeds (Efron and
Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13). One seed has no interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
BOOTSTRAP_SEEDS = 10
_RESAMPLES = 10_000

_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306)
"""Student's t at 97.5% for 1 to 8 degrees of freedom, from its tables."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95% interval; ``low`` and ``high`` are None with one seed."""

    value: float
    low: float | None
    high: float | None
    least: float
    """Of single seeds; and ``most``."""
    most: float
    seeds: int

    def text(self, form) -> str:
        """``value [low, high]``, each as ``form`` writes a number."""
        return form(self.value) if self.low is None else f"{form(self.value)} [{form(self.low)}, {form(self.high)}]"


def mean_over_seeds(values: Sequence[float]) -> Estimate:
    """Arithmetic mean of one figure per seed. Raises ValueError of nothing."""
    return _estimate(np.asarray(values, dtype=float))


def ratio_over_seeds(base: Mapping[int, float], other: Mapping[int, float]) -> Estimate | None:
    """Geometric mean over the seeds of both of ``base / other``, paired by seed; above 1 where ``other`` is less.

    Paired, because a seed is the same programs and arrivals for both: what makes it hard makes it hard for both.
    None without a common seed.
    """
    seeds = sorted(base.keys() & other.keys())
    if not seeds:
        return None
    logs = _estimate(np.log([base[seed] / other[seed] for seed in seeds]))
    ends = (None if end is None else float(np.exp(end)) for end in (logs.low, logs.high, logs.least, logs.most))
    return Estimate(float(np.exp(logs.value)), *ends, logs.seeds)


def method(seeds: int) -> str:
    """How an interval over so many seeds is made, for the reader."""
    if seeds == 1:
        return "one seed, no interval"
    return f"{LEVEL:.0%} {'bootstrap' if seeds >= BOOTSTRAP_SEEDS else 't'} interval over {seeds} seeds"


def _estimate(values: np.ndarray) -> Estimate:
    n = len(values)
    if n == 0:
        raise ValueError("values: none; accepted: one per seed")
    mean, least, most = float(values.mean()), float(values.min()), float(values.max())
    if n == 1:
        return Estimate(mean, None, None, least, most, 1)
    if n >= BOOTSTRAP_SEEDS:
        picks = np.random.default_rng(0).integers(0, n, (_RESAMPLES, n))
        tail = 50 * (1 - LEVEL)
        low, high = np.percentile(values[picks].mean(axis=1), (tail, 100 - tail))
    else:
        half = _T[n - 2] * values.std(ddof=1) / np.sqrt(n)
        low, high = mean - half, mean + half
    return Estimate(mean, float(low), float(high), least, most, n)
