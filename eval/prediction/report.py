"""Scores as Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from eval.prediction.rules import PRICES, RULES
from eval.prediction.score import LOOKED_AT_S, PROBABILITIES, Forecast, Scores, coverage, coverage_to_the_digit
from eval.workload.program import HUMAN

_FEW = 30
"""A share of fewer pauses is not shown."""


@dataclass(frozen=True)
class Study:
    """A workload and what was measured on it."""

    name: str
    programs: int
    scores: Scores


@dataclass(frozen=True)
class Dormancy:
    """Of programs of which the end was not said, and of pauses that ended."""

    ends: int
    ends_called: int
    after_s: float
    """Median silence before a true call."""
    pauses: int
    pauses_called: int
    back_soon: int
    """Of those, back within the horizon after all."""


def dormancy(scores: Scores, soon_s: float = 600.0) -> Dormancy:
    called = scores.called_dormant
    true = [after for after, seconds in called if seconds == math.inf]
    false = [seconds - after for after, seconds in called if seconds < math.inf]
    return Dormancy(
        ends=scores.never_ended,
        ends_called=len(true),
        after_s=float(np.median(true)) if true else math.nan,
        pauses=sum(f.elapsed_s == 0 for f in scores.forecasts) - scores.never_ended,
        pauses_called=len(false),
        back_soon=sum(left <= soon_s for left in false),
    )


def markdown(studies: Sequence[Study], variants: Sequence[Study], silences: Sequence[tuple[str, Dormancy]]) -> str:
    """All tables; ``variants`` may be empty."""
    parts = ["### Calibration: share of pauses that ended before the quantile (%)", _calibration(studies)]
    parts += [f"### Retention: cost in that of the oracle, {study.name}\n\n{_retention(study)}" for study in studies]
    parts += ["### Programs that are over, when nobody says so", _dormancy(silences)]
    if variants:
        parts += ["### Elsewhere", _elsewhere([*studies, *variants])]
    return "\n\n".join(parts)


def _calibration(studies: Sequence[Study]) -> str:
    heads = [f"{100 * p:g}" for p in PROBABILITIES]
    rows = [["workload", "pauses", "number", *heads, *(f"{head} to the digit" for head in heads)]]
    for study in studies:
        started = study.scores.forecasts
        half = sorted(f.number for f in started if not f.elapsed_s)[sum(not f.elapsed_s for f in started) // 2]
        kinds: list[tuple[str, Callable[[Forecast], bool]]] = [
            ("all", lambda f: not f.elapsed_s),
            ("first 200", lambda f: not f.elapsed_s and f.number < 200),
            ("second half", lambda f, half=half: not f.elapsed_s and f.number >= half),
            ("of tools", lambda f: not f.elapsed_s and f.tool != HUMAN),
            ("of people", lambda f: not f.elapsed_s and f.tool == HUMAN),
            *((f"after {at:g} s", lambda f, at=at: f.elapsed_s == at) for at in LOOKED_AT_S),
        ]
        for kind, belongs in kinds:
            some = [f for f in study.scores.forecasts if belongs(f)]
            if len(some) >= _FEW:
                shares = [coverage(some, p) for p in PROBABILITIES]
                shares += [coverage_to_the_digit(some, i) for i in range(len(PROBABILITIES))]
                rows.append([study.name, kind, str(len(some)), *(f"{100 * share:.1f}" for share in shares)])
    return _table(rows)


def _retention(study: Study) -> str:
    rows = [["rule", *(f"price {price:g}" for price in PRICES), "mean"]]
    for rule in RULES:
        ratios = [*(study.scores.ratio(price, rule) for price in PRICES), study.scores.mean_ratio(rule)]
        rows.append([rule, *(f"{ratio:.3f}" for ratio in ratios)])
    return _table(rows)


def _dormancy(silences: Iterable[tuple[str, Dormancy]]) -> str:
    rows = [["workload", "ends", "found", "after (median)", "pauses", "called dormant", "of those back in 10 min"]]
    for name, d in silences:
        after = "" if math.isnan(d.after_s) else f"{d.after_s:g} s"
        counts = [str(n) for n in (d.pauses, d.pauses_called, d.back_soon)]
        rows.append([name, str(d.ends), str(d.ends_called), after, *counts])
    return _table(rows)


def _elsewhere(studies: Sequence[Study]) -> str:
    rows = [["workload", "pauses", *(f"{100 * p:g}" for p in PROBABILITIES), *RULES[:1], "best rival"]]
    for study in studies:
        starts = [f for f in study.scores.forecasts if not f.elapsed_s]
        best = min(RULES[1:6], key=study.scores.mean_ratio)
        rows.append(
            [
                study.name,
                str(len(starts)),
                *(f"{100 * coverage(starts, p):.1f}" for p in PROBABILITIES),
                f"{study.scores.mean_ratio(RULES[0]):.3f}",
                f"{study.scores.mean_ratio(best):.3f} ({best})",
            ]
        )
    return _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    rule = ["---" if not i else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *body))
