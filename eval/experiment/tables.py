"""The tables of a report. Every figure is a mean over seeds, with its interval where it is the point of the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from eval.experiment.interval import Estimate
from eval.experiment.measures import GOOD, QUARTILES
from eval.experiment.study import PointResults, Runs, Study
from eval.report.tables import Table

Form = Callable[[float], str]


def amount(value: float) -> str:
    """Three digits or so."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def share(value: float) -> str:
    """In percent."""
    return f"{value:.1%}" if value < 0.9995 else "100%"


def times(value: float) -> str:
    """A ratio."""
    return f"{value:.2f}x" if value < 10 else f"{value:.1f}x"


def overview(study: Study, engine: str, name: str = "mean") -> Table:
    """One row per point, one column per setup; the least of each row in bold, and what is within 5% of it."""
    points = [results for results in study.points if results.engine == engine]
    labels = [label for label in study.labels if any(label in results.runs for results in points)]
    # What the makespans are held against are means.
    bounds = name == "mean" and any(_estimates(results, "over_clairvoyant") for results in points)
    rows = []
    for results in points:
        found = {label: runs.estimate(name) for label, runs in results.runs.items()}
        least = min((estimate.value for estimate in found.values() if estimate), default=0.0)
        row = [place(results)]
        for label in labels:
            estimate = found.get(label)
            text = "-" if estimate is None else amount(estimate.value)
            row.append(f"**{text}**" if estimate and estimate.value <= 1.05 * least else text)
        if bounds:
            row += [_reference(results, "lower_bound_s"), _reference(results, "clairvoyant_s")]
        rows.append(row)
    return ["point", *labels, *(["lower bound", "clairvoyant"] if bounds else [])], rows


def gains(study: Study, engine: str, name: str = "mean") -> Table:
    """One row per point: how many times less than the base setup, paired by seed, with its interval."""
    labels = [label for label in study.labels if label != study.base]
    rows = []
    for results in study.points:
        base = results.runs.get(study.base)
        if results.engine != engine or base is None:
            continue
        row = [f"{place(results)} ({base.seeds})"]
        for label in labels:
            runs = results.runs.get(label)
            gain = runs.gain(base, name) if runs else None
            row.append("-" if gain is None else gain.text(times))
        rows.append(row)
    return ["point (seeds)", *labels], rows


def makespan_table(results: PointResults, base: str | None) -> Table:
    """One row per setup: how long programs take."""
    distances = [name for name in ("over_bound", "over_clairvoyant") if _estimates(results, name)]
    titles = {"over_bound": "mean / lower bound", "over_clairvoyant": "mean / clairvoyant"}
    head = ["setup", "seeds", "done", "mean s", "p50", "p95", "p99", "max", f"vs {base}", "p95 vs it"]
    rows = []
    for runs in results.runs.values():
        own = results.runs.get(base) if base else None
        rows.append(
            [
                runs.label, str(runs.seeds), _text(runs, "completed", share),
                _text(runs, "mean", amount, interval=True),
                *(_text(runs, name, amount) for name in ("p50", "p95", "p99", "max")),
                *(_gain(runs, own, name) for name in ("mean", "p95")),
                *(_text(runs, name, times) for name in distances),
            ]
        )  # fmt: skip
    return head + [titles[name] for name in distances], rows


def service_table(results: PointResults) -> Table:
    """One row per setup: goodput, throughput, cache, fairness."""
    head = ["setup", "programs/h", *(f"within {n}x alone" for n in GOOD), *(f"those/h, {n}x" for n in GOOD),
            "cached", "of at most", "recomputed", "retractions"]  # fmt: skip
    rows = []
    for runs in results.runs.values():
        rows.append(
            [
                runs.label, _text(runs, "programs_per_h", amount, interval=True),
                *(_text(runs, f"within_{n}", share) for n in GOOD),
                *(_text(runs, f"good_per_h_{n}", amount) for n in GOOD),
                *(_text(runs, name, share) for name in ("cached", "possible", "recomputed")),
                _text(runs, "retractions", amount),
            ]
        )  # fmt: skip
    return head, rows


def fairness_table(results: PointResults) -> Table:
    """One row per setup: makespan over the time alone, by size of the program."""
    parts = ["shortest quarter", *(f"quarter {n}" for n in range(2, QUARTILES)), "longest quarter"]
    rows = [
        [
            runs.label, _text(runs, "slowdown", times, interval=True),
            *(_text(runs, f"slowdown_q{n}", times) for n in range(1, QUARTILES + 1)),
            _text(runs, "slowdown_worst", times),
        ]
        for runs in results.runs.values()
    ]  # fmt: skip
    return ["setup", "mean slowdown", *parts, "worst program"], rows


def place(results: PointResults) -> str:
    """Short form of a point, for the first column."""
    point = results.point
    slots = "" if point.tool_slots is None else f", {point.tool_slots} slots"
    return f"{point.workload}, {point.profile}{slots}, {point.load}"


def _text(runs: Runs, name: str, form: Form, *, interval: bool = False) -> str:
    estimate: Estimate | None = runs.estimate(name)
    if estimate is None:
        return "-"
    return estimate.text(form) if interval else form(estimate.value)


def _gain(runs: Runs, base: Runs | None, name: str) -> str:
    gain = runs.gain(base, name) if base else None
    return "-" if gain is None else "1" if runs is base else gain.text(times)


def _estimates(results: PointResults, name: str) -> Sequence[Estimate]:
    return [estimate for runs in results.runs.values() if (estimate := runs.estimate(name))]


def _reference(results: PointResults, name: str) -> str:
    # Setups with a host tier have a clairvoyant of their own; the column is of those without.
    found = {m.cell.seed: m.reference[name] for runs in results.runs.values() for m in runs.cells
             if name in m.reference and not m.cell.setup.host_ratio}  # fmt: skip
    return amount(sum(found.values()) / len(found)) if found else "-"
