"""Simulator against emulated server: the same cells on both."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from eval.experiment.cell import EMULATED, SIMULATOR
from eval.experiment.study import PointResults, Runs, Study
from eval.experiment.tables import amount, place, share
from eval.report.tables import Table

NEAR = 0.10
"""How far a simulated mean may be from the emulated one."""

TIE = 0.05
"""Means nearer than this in both engines have no order worth speaking of."""


BUT_FOR_TIES = "but for ties"


@dataclass(frozen=True)
class Pair:
    """One setup at one point on both engines: mean makespans over the seeds of both."""

    label: str
    seeds: int
    simulated_s: float
    emulated_s: float
    kept_up: bool = True
    """False where the machine was too slow for the emulation: the emulated figure then says nothing."""

    @property
    def ratio(self) -> float:
        """Simulated over emulated."""
        return self.simulated_s / self.emulated_s

    @property
    def near(self) -> bool:
        """Whether they are within :data:`NEAR`."""
        return abs(self.ratio - 1) <= NEAR


@dataclass(frozen=True)
class PointAgreement:
    """All setups of one point that both engines have, and on which the emulation can be believed."""

    results: PointResults
    pairs: list[Pair]
    too_slow: list[Pair]
    """Left out of every count."""

    @property
    def tau(self) -> float | None:
        """Kendall's rank correlation of the two orders of setups; None of fewer than two."""
        signs = [_sign(a.simulated_s - b.simulated_s) * _sign(a.emulated_s - b.emulated_s)
                 for a, b in combinations(self.pairs, 2)]  # fmt: skip
        return sum(signs) / len(signs) if signs else None

    @property
    def ranking(self) -> str:
        """``yes``, :data:`BUT_FOR_TIES` (what is swapped is nearer than :data:`TIE` in both), ``no``; or ``-``."""
        if len(self.pairs) < 2:
            return "-"
        swapped = [(a, b) for a, b in combinations(self.pairs, 2)
                   if (a.simulated_s - b.simulated_s) * (a.emulated_s - b.emulated_s) < 0]  # fmt: skip
        if not swapped:
            return "yes"
        return BUT_FOR_TIES if all(_tied(a, b) for a, b in swapped) else "no"


def agreement(study: Study) -> list[PointAgreement]:
    """One entry for each point at which a setup was run on both engines with a common seed."""
    found = []
    emulated = {results.point: results for results in study.points if results.engine == EMULATED}
    for results in study.points:
        other = emulated.get(results.point)
        if results.engine != SIMULATOR or other is None:
            continue
        pairs = [_pair(runs, other.runs[label]) for label, runs in results.runs.items() if label in other.runs]
        if pairs := [pair for pair in pairs if pair]:
            found.append(PointAgreement(results, [p for p in pairs if p.kept_up], [p for p in pairs if not p.kept_up]))
    return found


def agreement_tables(found: list[PointAgreement]) -> tuple[Table, Table, str]:
    """Per setup, per point, and a sentence that counts both."""
    head = ["point", "setup", "seeds", "simulator mean s", "emulated mean s", "ratio", f"within {NEAR:.0%}"]
    cells = [
        [place(entry.results), pair.label, str(pair.seeds), amount(pair.simulated_s), amount(pair.emulated_s),
         f"{pair.ratio:.3f}", ("yes" if pair.near else "**no**") if pair.kept_up else "machine too slow"]
        for entry in found for pair in (*entry.pairs, *entry.too_slow)
    ]  # fmt: skip
    points = [
        [place(entry.results), "-" if entry.tau is None else f"{entry.tau:.2f}", entry.ranking] for entry in found
    ]
    return (head, cells), (["point", "Kendall's tau", "same order"], points), _counted(found)


def _counted(found: list[PointAgreement]) -> str:
    pairs = [pair for entry in found for pair in entry.pairs]
    slow = sum(len(entry.too_slow) for entry in found)
    left_out = f" {slow} more cells do not count: the machine was too slow for the emulation." if slow else ""
    if not pairs:
        return f"No cell can be judged.{left_out}"
    ordered = [entry.ranking for entry in found if entry.tau is not None]
    worst = max(pairs, key=lambda pair: abs(np.log(pair.ratio)))
    return (
        f"{sum(pair.near for pair in pairs)} of {len(pairs)} means are within {NEAR:.0%} (furthest: {worst.label}, "
        f"{worst.ratio - 1:+.1%}; median distance {share(float(np.median([abs(pair.ratio - 1) for pair in pairs])))}). "
        f"{ordered.count('yes')} of {len(ordered)} points have the same order of setups, and "
        f"{ordered.count(BUT_FOR_TIES)} more but for pairs within {TIE:.0%} in both.{left_out}"
    )


def _pair(simulated: Runs, emulated: Runs) -> Pair | None:
    ours, theirs = simulated.values("mean"), emulated.values("mean")
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    means = (float(np.mean([side[seed] for seed in seeds])) for side in (ours, theirs))
    kept_up = all(m.kept_up for m in emulated.cells if m.cell.seed in seeds)
    return Pair(simulated.label, len(seeds), *means, kept_up)


def _tied(a: Pair, b: Pair) -> bool:
    return all(abs(np.log(x / y)) <= TIE for x, y in ((a.simulated_s, b.simulated_s), (a.emulated_s, b.emulated_s)))


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
