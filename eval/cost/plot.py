"""A picture per curve."""

from __future__ import annotations

from pathlib import Path

import matplotlib

from eval.cost.curve import Curve

matplotlib.use("Agg")

from matplotlib import pyplot as plt

# Okabe and Ito's palette: told apart without colour vision, and in print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
_MARKERS = "osD^vP*X"


def draw(curve: Curve, path: Path) -> None:
    """Medians on logarithmic axes, with a bar from the least round to the most. PNG."""
    figure, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
    for index, (series, points) in enumerate(curve.values.items()):
        sizes = sorted(points)
        spreads = [curve.spread(series, size) for size in sizes]
        medians = [s.median for s in spreads]
        bars = ([s.median - s.low for s in spreads], [s.high - s.median for s in spreads])
        axes.errorbar(
            sizes,
            medians,
            yerr=bars,
            color=_COLOURS[index % len(_COLOURS)],
            marker=_MARKERS[index // len(_COLOURS) % len(_MARKERS)],
            markersize=4,
            linewidth=2.4 if series == curve.base else 1.5,
            linestyle="--" if series == curve.base else "-",
            capsize=2,
            label=series,
        )
    axes.set(xscale="log", yscale="log", xlabel=curve.size, ylabel=curve.unit)
    if curve.sizes[0] == 0:
        # A logarithmic axis has no nought.
        axes.set_xscale("symlog", linthresh=curve.sizes[1])
    axes.set_xticks(curve.sizes, [f"{size:,}" for size in curve.sizes])
    axes.minorticks_off()
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_title(curve.title.replace("`", ""), fontsize=10)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
