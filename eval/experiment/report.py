"""``report.md`` and its plots, from a study."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eval.experiment.agreement import agreement, agreement_tables
from eval.experiment.cell import slug
from eval.experiment.interval import method
from eval.experiment.plots import Plots
from eval.experiment.store import write_atomically
from eval.experiment.study import Measured, PointResults, Study
from eval.experiment.tables import fairness_table, gains, makespan_table, overview, place, service_table
from eval.report.figures import worst_emulation_error
from eval.report.tables import markdown

_READING = """\
Times are emulated seconds. Makespan: a program's arrival to its last response. Every figure is the mean over the
seeds of that point; in brackets its 95% interval. A ratio above 1 means shorter than the base, paired by seed
(geometric mean). *Time alone*: what the program takes on an empty engine, by the cost model; *within 2x alone*: share
of all programs that took at most twice that. *Of at most*: share of prompt tokens that a cache without limit would
find. *Recomputed*: prompt tokens that had been computed before for the same program. In the tables of all points,
bold is the best and what is within 5% of it."""


def write_report(study: Study, out: Path) -> Path:
    """Writes into ``out``; the path of ``report.md``."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "report.md"
    write_atomically(path, "\n\n".join(_parts(study, out)) + "\n")
    return path


def _parts(study: Study, out: Path) -> Iterator[str]:
    yield f"# {study.title}"
    yield from study.about
    yield _READING
    seeds = sorted({runs.seeds for results in study.points for runs in results.runs.values()})
    yield f"{len(study.cells)} cells. Intervals: {'; '.join(method(count) for count in seeds)}."
    if remarks := list(_remarks(study)):
        yield "\n".join(f"- {remark}" for remark in remarks)
    if found := agreement(study):
        cells, points, counted = agreement_tables(found)
        yield f"## Simulator and emulated server\n\n{counted}\n\n{markdown(points)}\n\n{markdown(cells)}"
    for engine in study.engines:
        yield f"## All points, {engine}"
        yield "Mean makespan, seconds:\n\n" + markdown(overview(study, engine))
        yield "P95 makespan, seconds:\n\n" + markdown(overview(study, engine, "p95"))
        if study.base and len(study.labels) > 1:
            yield f"Mean makespan, times shorter than {study.base}:\n\n" + markdown(gains(study, engine))
    plots = Plots(study.labels, out)
    for number, series in enumerate(study.series(), 1):
        yield from _series(series, study.base, plots, number)
    yield _made(study)


def _series(series: list[PointResults], base: str | None, plots: Plots, number: int) -> Iterator[str]:
    first = series[0]
    yield f"## {first.point.name}; {first.engine}"
    end = f"{number}-{slug(first.point.workload)}-{slug(first.point.profile)}-{first.engine}.png"
    images = [("distribution", plots.distribution), ("goodput", plots.goodput)]
    if len(series) > 1:
        images.insert(0, ("load", plots.over_load))
    for name, draw in images:
        draw(series, f"{name}-{end}")
    if base and any(base in results.runs and len(results.runs) > 1 for results in series):
        plots.gains(series, base, f"gains-{end}")
        images.insert(0, ("gains", plots.gains))
    plots.time_lines(series[-1], f"timeline-{end}")
    yield "\n\n".join(f"![{name}]({name}-{end})" for name in (*(name for name, _ in images), "timeline"))
    for results in series:
        yield f"### {results.point.load}"
        yield markdown(makespan_table(results, base if base in results.runs else None))
        yield markdown(service_table(results))
        yield markdown(fairness_table(results))


def _remarks(study: Study) -> Iterator[str]:
    """What a reader must know before believing the tables."""
    for measured in study.cells:
        summary, label = measured.document["summary"], measured.cell.label
        if not measured.kept_up:
            error = worst_emulation_error(summary["emulation_error"])
            yield f"{label}: emulated step times were off by {error:.0%} in the median: its speed is too high here."
        if summary["completed"] < summary["programs"]:
            yield (f"{label}: {summary['programs'] - summary['completed']} of {summary['programs']} programs did not "
                   "complete; makespans are of those that did.")  # fmt: skip
    counts = {results.point: {runs.seeds for runs in results.runs.values()} for results in study.points}
    for results in study.points:
        if len(counts[results.point]) > 1:
            yield f"{place(results)} ({results.engine}): setups differ in their seeds; only ratios are paired."
    for name, values in (("versions of the code or its packages", _distinct(study, "versions")),
                         ("machines", _distinct(study, "machine"))):  # fmt: skip
        if len(values) > 1:
            yield f"The cells were made with {len(values)} different {name}."
    if study.base is None:
        yield "No cell is of the base setup: no ratios. --base names another."
    left_out = {(m.cell.point.workload, reason, count) for m in study.cells
                for reason, count in m.document["summary"]["left_out"].items()}  # fmt: skip
    for workload, reason, count in sorted(left_out):
        yield f"{workload}: {count} programs were {reason.replace('_', ' ')} for the pool; the next ones replace them."


def _distinct(study: Study, name: str) -> set[str]:
    return {repr(sorted(measured.document[name].items())) for measured in study.cells}


def _made(study: Study) -> str:
    last: Measured = study.cells[-1]
    machine, versions = last.document["machine"], last.document["versions"]
    installed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    wall_s = sum(measured.document["wall_s"] for measured in study.cells)
    return (
        f"## Made with\n\n{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB, "
        f"{machine['system']}, Python {machine['python']}; {installed}. All cells together took "
        f"{wall_s / 60:.0f} minutes of one process."
    )
