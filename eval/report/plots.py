"""PNG plots of a benchmark: how makespans are distributed, and what memory did over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from eval.report.figures import Run

matplotlib.use("Agg")

from matplotlib import pyplot as plt

# Okabe and Ito's palette: told apart without colour vision, and in print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_DPI = 130
_GRID = {"color": "#dddddd", "linewidth": 0.6}


def makespans(runs: Sequence[Run], subtitle: str, path: Path) -> None:
    """Share of programs done within a time, per policy. A curve that ends below 100% had failures."""
    figure, axes = plt.subplots(figsize=(8, 4.8), layout="constrained")
    for index, run in enumerate(runs):
        values = np.sort([program.makespan_s for program in run.result.programs if program.completed])
        if not len(values):
            continue
        shares = np.arange(1, len(values) + 1) / len(run.result.programs) * 100
        x, y = np.concatenate(([values[0]], values)), np.concatenate(([0.0], shares))
        label = f"{run.label}  (mean {values.mean():.0f} s)"
        axes.step(x, y, where="post", color=_COLOURS[index % len(_COLOURS)], linewidth=1.8, label=label)
    axes.set(xlabel="makespan: program's arrival to its last response (emulated seconds)", ylabel="programs done (%)")
    axes.set_ylim(0, 102)
    axes.set_xlim(left=0)
    axes.grid(**_GRID)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", frameon=True, framealpha=0.9)
    axes.set_title(f"Makespan per program\n{subtitle}", fontsize=10)
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)


def time_lines(runs: Sequence[Run], subtitle: str, path: Path) -> None:
    """KV in use, requests and programs over time: a row of panels per policy, on shared axes."""
    rows = len(runs)
    figure, grid = plt.subplots(rows, 2, figsize=(11, 1.0 + 2.3 * rows), sharex=True, sharey="col", squeeze=False,
                                layout="constrained")  # fmt: skip
    for run, (memory, counts) in zip(runs, grid, strict=True):
        samples = run.result.samples
        at = [sample.at_s for sample in samples]
        shares = [np.nan if s.kv_share is None else 100 * s.kv_share for s in samples]
        memory.fill_between(at, shares, color=_COLOURS[0], alpha=0.25, linewidth=0)
        memory.plot(at, shares, color=_COLOURS[0], linewidth=1.2)
        memory.set_ylim(0, 105)
        memory.set_ylabel(f"{run.label}\nKV in use (%)")
        for name, colour, values in (
            ("programs", _COLOURS[6], [s.programs for s in samples]),
            ("in a tool", _COLOURS[2], [s.in_tools for s in samples]),
            ("requests running", _COLOURS[0], [_or_nan(s.running) for s in samples]),
            ("requests waiting", _COLOURS[1], [_or_nan(s.waiting) for s in samples]),
        ):
            counts.plot(at, values, color=colour, linewidth=1.2, label=name)
        counts.set_ylabel("count")
        counts.set_ylim(bottom=0)
        for axes in (memory, counts):
            axes.grid(**_GRID)
            axes.set_xlim(left=0)
    grid[0][1].legend(loc="upper right", fontsize=8, frameon=True, framealpha=0.9)
    grid[0][0].set_title("KV pool in use by requests", fontsize=10)
    grid[0][1].set_title("Programs and requests", fontsize=10)
    for axes in grid[-1]:
        axes.set_xlabel("time since the run began (emulated seconds)")
    figure.suptitle(subtitle, fontsize=10)
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)


def _or_nan(value: int | None) -> float:
    return np.nan if value is None else value
