"""Curves as Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib import metadata

from eval.cost.curve import SMALLEST, Curve, Spread
from eval.cost.timing import LONG_S
from eval.report.tables import markdown as table


def markdown(curves: Sequence[Curve], rounds: int, pictures: str | None = None) -> str:
    """One section per curve.

    Args:
        pictures: where the pictures are, seen from the text; None: there are none.
    """
    parts = ["# What it costs", _conditions(rounds)]
    for curve in curves:
        parts.append(f"## {curve.title}")
        parts += curve.remarks
        if pictures is not None:
            parts.append(f"![{curve.title}]({pictures}{curve.name}.png)")
        parts.append(f"In {curve.unit}:")
        parts.append(table(_values(curve)))
        if ratios := _ratios(curve):
            parts.append(f"Ratio to {_base(curve)}:")
            parts.append(table(ratios))
    return "\n\n".join(parts) + "\n"


def _conditions(rounds: int) -> str:
    versions = f"Python {platform.python_version()}, SGLang {metadata.version('sglang')}"
    return (
        f"{versions}, {os.cpu_count()} cores. CPU time of one thread, unless said otherwise. A cell is the median of "
        f"{rounds} rounds and, in brackets, the least and the most. What is compared takes turns within a round, and a "
        f"ratio is that of one round. A cell is empty where a smaller size took over {LONG_S:g} s per call."
    )


def _base(curve: Curve) -> str:
    return f"the fewest {curve.size}" if curve.base == SMALLEST else f"*{curve.base}* of the same size"


def _values(curve: Curve) -> tuple[list[str], list[list[str]]]:
    series = list(curve.values)
    return [curve.size, *series], [
        [f"{size:,}", *(_cell(curve.spread(name, size)) for name in series)] for size in curve.sizes
    ]


def _ratios(curve: Curve) -> tuple[list[str], list[list[str]]] | None:
    series = [name for name in curve.values if any(curve.ratio(name, size) for size in curve.sizes)]
    if not series:
        return None
    sizes = [size for size in curve.sizes if any(curve.ratio(name, size) for name in series)]
    return [curve.size, *series], [[f"{s:,}", *(_cell(curve.ratio(name, s)) for name in series)] for s in sizes]


def _cell(spread: Spread | None) -> str:
    if spread is None:
        return ""
    return f"{_number(spread.median)} ({_number(spread.low)}-{_number(spread.high)})"


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
