"""The picture: calibration curves, and the cost of retention against the price of memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from eval.prediction.report import Study
from eval.prediction.rules import OURS, PRICES, RULES
from eval.prediction.score import LOOKED_AT_S, PROBABILITIES, coverage

matplotlib.use("Agg")

from matplotlib import pyplot as plt

# Okabe and Ito's palette: told apart without colour vision, and in print.
_COLOURS = ("#0072B2", "#D55E00", "#E69F00", "#009E73", "#56B4E9", "#CC79A7", "#000000", "#999999")
_GRID = {"color": "#dddddd", "linewidth": 0.6}
_HIGHEST = 3.0
_FEW = 30


def draw(studies: Sequence[Study], path: Path) -> None:
    """A row per workload: calibration on the left, retention on the right. PNG."""
    rows = len(studies)
    figure, grid = plt.subplots(rows, 2, figsize=(11, 0.8 + 4.2 * rows), squeeze=False, layout="constrained")
    for study, (left, right) in zip(studies, grid, strict=True):
        _calibration(left, study)
        _retention(right, study)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _calibration(axes, study: Study) -> None:
    probabilities = np.linspace(0.02, 0.98, 49)
    axes.plot((0, 100), (0, 100), color="#000000", linewidth=0.8)
    axes.fill_between((0, 100), (-5, 95), (5, 105), color="#000000", alpha=0.07, linewidth=0, label="within 5 points")
    for colour, elapsed in zip(_COLOURS, (0.0, *LOOKED_AT_S), strict=False):
        some = [f for f in study.scores.forecasts if f.elapsed_s == elapsed]
        if len(some) < _FEW:
            continue
        name = "at the start" if not elapsed else f"after {elapsed:g} s"
        shares = [100 * coverage(some, p) for p in probabilities]
        axes.plot(100 * probabilities, shares, color=colour, linewidth=1.8, label=f"{name} ({len(some)})")
    for probability in PROBABILITIES:
        axes.axvline(100 * probability, color="#999999", linewidth=0.8, linestyle=":")
    axes.set(
        xlim=(0, 100), ylim=(0, 100), xlabel="quantile of the forecast (%)", ylabel="pauses that ended before it (%)"
    )
    axes.set_title(f"{study.name}: calibration", fontsize=10)
    axes.grid(**_GRID)
    axes.legend(loc="upper left", fontsize=8)


def _retention(axes, study: Study) -> None:
    for index, rule in enumerate(RULES):
        ratios = [study.scores.ratio(price, rule) for price in PRICES]
        limited = rule.endswith("no limit") or rule in ("break-even", "always keep", "never keep")
        axes.plot(
            PRICES,
            ratios,
            color=_COLOURS[index % len(_COLOURS)] if rule != "never keep" else "#7a5c00",
            linewidth=2.6 if rule == OURS else 1.3,
            linestyle="--" if limited else "-",
            marker="o",
            markersize=5 if rule == OURS else 3,
            label=rule,
            zorder=3 if rule == OURS else 2,
        )
    axes.set(xscale="log", ylim=(0.97, _HIGHEST), xlabel="price of memory (1: a full pool is worth the GPU)")
    axes.set_ylabel("cost in that of the oracle")
    axes.set_xticks(PRICES, [f"{price:g}" for price in PRICES])
    axes.minorticks_off()
    axes.set_title(f"{study.name}: retention (above {_HIGHEST:g} not shown)", fontsize=10)
    axes.grid(**_GRID)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
