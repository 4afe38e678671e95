"""PNG plots of a study. A setup has one colour in all of them, and nothing is drawn without its spread over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from eval.experiment.measures import GOOD, makespans, slowdowns
from eval.experiment.study import PointResults, load_of

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

# Okabe and Ito's palette: told apart without colour vision, and in print. Past its end, other dashes.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_DASHES = ("-", "--", ":", "-.")
_MARKERS = "osD^vP*X"
_DPI = 120
_GRID = {"color": "#dddddd", "linewidth": 0.6}
_COLUMNS = 3
_LOG_FROM = 8
"""An axis whose largest value is so many times its smallest is logarithmic."""

Series = Sequence[PointResults]


class Plots:
    """Draws for one study; ``labels`` are its setups in their order, which decides their colours."""

    def __init__(self, labels: Sequence[str], folder: Path) -> None:
        self._places = {label: place for place, label in enumerate(labels)}
        self._folder = folder

    def over_load(self, series: Series, file: str) -> None:
        """Mean and P95 makespan, throughput and goodput against the load; bars: least and most of the seeds."""
        good = GOOD[1]
        panels = (
            ("mean", "mean makespan (s)"),
            ("p95", "P95 makespan (s)"),
            ("programs_per_h", "programs done per hour"),
            (f"within_{good}", f"share within {good}x of its time alone"),
        )
        figure, grid = plt.subplots(2, 2, figsize=(11, 8), sharex=True, layout="constrained")
        for axes, (name, title) in zip(grid.flat, panels, strict=True):
            for label in self._labels(series):
                found = [(load_of(r.point), r.runs[label].estimate(name)) for r in series if label in r.runs]
                self._line(axes, label, [(load, estimate) for load, estimate in found if estimate])
            axes.set_ylabel(title)
            axes.grid(**_GRID)
            _floor(axes, name in ("mean", "p95"))
            if name == "programs_per_h" and series[0].point.arrivals.rate is not None:
                loads = [load_of(results.point) for results in series]
                # Behind the data, and without a say in the limits: past the knee it is far above what is done.
                top = axes.get_ylim()[1]
                axes.plot(loads, [3600 * load for load in loads], color="#bbbbbb", linewidth=1, zorder=1)
                axes.set_ylim(0, top)
                axes.set_title("grey: what is offered", fontsize=8, color="#888888", loc="left", pad=3)
        kind = "programs per second" if series[0].point.arrivals.rate is not None else "programs at a time"
        for axes in grid[-1]:
            axes.set_xlabel(f"load ({kind})")
        self._save(figure, grid[0][0], _head(series, "bars: least and most of the seeds"), file)

    def gains(self, series: Series, base: str, file: str) -> None:
        """A panel per load: how many times shorter the mean makespan is than under ``base``, with its interval."""
        shown = [results for results in series if base in results.runs and len(results.runs) > 1]
        if not shown:
            return
        labels = [label for label in self._labels(series) if label != base]
        figure, grid = _panels(len(shown), 0.32 * len(labels) + 1.4)
        for axes, results in zip(grid.flat, shown, strict=False):
            for row, label in enumerate(labels):
                gain = results.runs[label].gain(results.runs[base]) if label in results.runs else None
                if gain is None:
                    continue
                low, high = (gain.least, gain.most) if gain.low is None else (gain.low, gain.high)
                axes.plot([low, high], [row, row], color=self._style(label)["color"], linewidth=2.2)
                axes.plot(gain.value, row, marker="o", markersize=6, color=self._style(label)["color"])
            axes.axvline(1, color="#888888", linewidth=1)
            axes.set_yticks(range(len(labels)), labels, fontsize=8)
            axes.set_ylim(len(labels) - 0.5, -0.5)
            axes.set_xscale("log")
            _ratio_ticks(axes)
            axes.grid(axis="x", **_GRID)
            axes.set_title(f"{results.point.load} ({_seeds(results)})", fontsize=9)
        figure.supxlabel(f"times shorter than {base}, mean makespan; bar: 95% interval, none with one seed", fontsize=9)
        self._save(figure, None, _head(series, ""), file)

    def distribution(self, series: Series, file: str) -> None:
        """A panel per load: share of programs done within a time. Band: least and most of the seeds."""
        self._curves(series, makespans, "makespan (emulated seconds)", file)

    def goodput(self, series: Series, file: str) -> None:
        """A panel per load: share of programs done within a multiple of their time alone."""
        self._curves(series, slowdowns, "makespan over the program's time alone", file)

    def time_lines(self, results: PointResults, file: str) -> None:
        """A row per setup, its first seed: programs, requests, and KV in use where it is known."""
        runs = list(results.runs.values())
        first = [entry.cells[0] for entry in runs]
        lines = [measured.document["timeline"] for measured in first]
        with_kv = any(value is not None for line in lines for value in line["kv_share"])
        # Without KV to show, two setups stand side by side.
        rows = len(runs) if with_kv else -(-len(runs) // 2)
        figure, grid = plt.subplots(
            rows, 2, figsize=(11, 1.3 + 1.7 * rows), sharex=True, sharey="col" if with_kv else True, squeeze=False,
            layout="constrained",
        )  # fmt: skip
        counts = list(grid[:, 0] if with_kv else grid.flat)
        for axes, entry, line in zip(counts, runs, lines, strict=False):
            _counts(axes, line)
            axes.set_ylabel(entry.label, fontsize=8)
        for axes in counts[len(runs) :]:
            axes.set_visible(False)
        if with_kv:
            for axes, line in zip(grid[:, 1], lines, strict=True):
                _kv_in_use(axes, line)
        grid[0][0].set_xlim(0, max((line["at_s"][-1] for line in lines if line["at_s"]), default=1.0))
        figure.supxlabel("emulated seconds", fontsize=9)
        seeds = sorted({measured.cell.seed for measured in first})
        note = f"{results.point.load}; single runs, seed {', '.join(map(str, seeds))}: no spread to show"
        self._save(figure, grid[0][0], _head([results], note), file)

    def _curves(self, series: Series, values: Callable[[dict[str, Any]], np.ndarray], title: str, file: str) -> None:
        figure, grid = _panels(len(series), 3.4)
        for axes, results in zip(grid.flat, series, strict=False):
            everything = [values(m.document) for runs in results.runs.values() for m in runs.cells]
            everything = np.concatenate([part for part in everything if len(part)] or [np.array([1.0])])
            at = np.geomspace(max(everything.min(), 1e-3), everything.max(), 240)
            for label, runs in results.runs.items():
                shares = np.array([_share_within(values(m.document), at, m.document) for m in runs.cells])
                style = self._style(label) | {"marker": ""}
                axes.plot(at, shares.mean(axis=0), label=label, linewidth=1.6, **style)
                axes.fill_between(
                    at, shares.min(axis=0), shares.max(axis=0), color=style["color"], alpha=0.15, linewidth=0
                )
            axes.set_xscale("log")
            _log_ticks(axes.xaxis)
            axes.set_ylim(0, 102)
            axes.grid(**_GRID)
            axes.set_title(f"{results.point.load} ({_seeds(results)})", fontsize=9)
        figure.supxlabel(title, fontsize=9)
        figure.supylabel("programs done (%)", fontsize=9)
        self._save(figure, grid[0][0], _head(series, "band: least and most of the seeds"), file)

    def _line(self, axes: Axes, label: str, points: list) -> None:
        if not points:
            return
        loads, estimates = zip(*points, strict=True)
        values = [estimate.value for estimate in estimates]
        below = [estimate.value - estimate.least for estimate in estimates]
        above = [estimate.most - estimate.value for estimate in estimates]
        axes.errorbar(loads, values, (np.maximum(below, 0), np.maximum(above, 0)), label=label, capsize=3,
                      linewidth=1.6, markersize=4.5, **self._style(label))  # fmt: skip

    def _labels(self, series: Series) -> list[str]:
        return [label for label in self._places if any(label in results.runs for results in series)]

    def _style(self, label: str) -> dict[str, Any]:
        place = self._places[label]
        return {
            "color": _COLOURS[place % len(_COLOURS)],
            "linestyle": _DASHES[place // len(_COLOURS) % len(_DASHES)],
            "marker": _MARKERS[place % len(_MARKERS)],
        }

    def _save(self, figure: Figure, legend: Axes | None, head: str, file: str) -> None:
        handles, labels = legend.get_legend_handles_labels() if legend else ([], [])
        if handles:
            figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False, handlelength=3)
        figure.suptitle(head, fontsize=10)
        figure.savefig(self._folder / file, dpi=_DPI)
        plt.close(figure)


def _panels(count: int, height: float) -> tuple[Figure, np.ndarray]:
    columns = 2 if count == 4 else min(_COLUMNS, count)
    rows = -(-count // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(max(6.5, 3.9 * columns + 1.2), 0.9 + height * rows), squeeze=False, layout="constrained"
    )
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    return figure, grid


def _counts(axes: Axes, line: dict[str, list]) -> None:
    shown = (("programs", "programs", 6), ("in_tools", "in a tool", 2), ("running", "requests running", 0),
             ("waiting", "requests waiting", 1))  # fmt: skip
    for name, title, colour in shown:
        values = [np.nan if value is None else value for value in line[name]]
        axes.plot(line["at_s"], values, color=_COLOURS[colour], linewidth=1.1, label=title)
    axes.set_ylim(bottom=0)
    axes.grid(**_GRID)


def _kv_in_use(axes: Axes, line: dict[str, list]) -> None:
    shares = [np.nan if value is None else 100 * value for value in line["kv_share"]]
    axes.fill_between(line["at_s"], shares, color=_COLOURS[0], alpha=0.25, linewidth=0)
    axes.plot(line["at_s"], shares, color=_COLOURS[0], linewidth=1)
    axes.set_ylim(0, 105)
    axes.set_ylabel("KV in use (%)", fontsize=8)
    axes.grid(**_GRID)


def _share_within(values: np.ndarray, at: np.ndarray, document: dict[str, Any]) -> np.ndarray:
    """In percent of all programs of the cell, the failed ones included."""
    return 100 * np.searchsorted(np.sort(values), at, "right") / max(1, len(document["programs"]["program"]))


def _floor(axes: Axes, may_be_log: bool) -> None:
    drawn = np.concatenate([line.get_ydata() for line in axes.get_lines()] or [np.array([1.0])]).astype(float)
    if may_be_log and len(drawn) and drawn.min() > 0 and drawn.max() > _LOG_FROM * drawn.min():
        axes.set_yscale("log")
        _log_ticks(axes.yaxis)
    else:
        axes.set_ylim(bottom=0)


def _log_ticks(axis: Axis) -> None:
    axis.set_major_locator(LogLocator(10, (1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(NullLocator())


def _ratio_ticks(axes: Axes) -> None:
    low, high = axes.get_xlim()
    choices = (2.0 ** np.arange(-10, 11), (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3), np.arange(0.6, 1.6, 0.1),
               np.arange(0.7, 1.4, 0.02))  # fmt: skip
    within = [[tick for tick in choice if low <= tick <= high] for choice in choices]
    ticks = next((ticks for ticks in within if len(ticks) >= 3), [1])
    axes.xaxis.set_major_locator(FixedLocator(ticks[:: -(-len(ticks) // 6)]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}x")
    axes.xaxis.set_minor_locator(NullLocator())


def _head(series: Series, note: str) -> str:
    first = series[0]
    seeds = {runs.seeds for results in series for runs in results.runs.values()}
    if note and seeds == {1} and "single runs" not in note:
        note = "one seed: no spread"
    return f"{first.point.name}; {first.engine}" + (f"\n{note}" if note else "")


def _seeds(results: PointResults) -> str:
    counts = sorted({runs.seeds for runs in results.runs.values()})
    return f"{counts[0]} seed{'s' * (counts[0] != 1)}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"
