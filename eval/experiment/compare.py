"""Two directories of results, cell by cell: what changed between two versions of the code, or two machines."""

from __future__ import annotations

from eval.experiment.interval import method, ratio_over_seeds
from eval.experiment.study import Measured, Study
from eval.experiment.tables import amount, place, times
from eval.report.tables import Table, markdown

_LISTED = 12


def compare(a: Study, b: Study) -> str:
    """Markdown: ratios A / B of mean and P95 makespan per point and setup, paired by seed; and what only one has."""
    ours, theirs = ({measured.cell.key: measured for measured in study.cells} for study in (a, b))
    both = ours.keys() & theirs.keys()
    parts = [
        "# A against B",
        f"{len(both)} cells are in both. A ratio above 1: programs took longer in A. Paired by seed.",
        *_changed([(ours[key], theirs[key]) for key in ours if key in both]),
    ]
    if both:
        parts.append(markdown(_table(a, both, theirs)))
    for name, cells, other in (("A", ours, theirs), ("B", theirs, ours)):
        if only := [measured.cell.label for key, measured in cells.items() if key not in other]:
            listed = "\n".join(f"- {label}" for label in only[:_LISTED])
            more = f"\n- and {len(only) - _LISTED} more" if len(only) > _LISTED else ""
            parts.append(f"## Only in {name}: {len(only)}\n\n{listed}{more}")
    return "\n\n".join(parts) + "\n"


def _table(a: Study, both: set[str], theirs: dict[str, Measured]) -> Table:
    rows = []
    for results in a.points:
        for runs in results.runs.values():
            pairs = [(m, theirs[m.cell.key]) for m in runs.cells if m.cell.key in both]
            row = [f"{results.engine}: {place(results)}", runs.label]
            for name in ("mean", "p95"):
                mine = {m.cell.seed: m.measures[name] for m, _ in pairs if name in m.measures}
                other = {m.cell.seed: o.measures[name] for m, o in pairs if name in o.measures}
                ratio = ratio_over_seeds(mine, other)
                means = "-" if ratio is None else f"{amount(_mean(mine))} / {amount(_mean(other))}"
                row += [means, "-" if ratio is None else ratio.text(times)]
            if pairs:
                rows.append([*row, method(len(pairs))])
    return ["point", "setup", "mean A / B, s", "ratio", "p95 A / B, s", "ratio", "interval"], rows


def _changed(pairs: list[tuple[Measured, Measured]]) -> list[str]:
    """Remarks that a reader of ratios must know."""
    remarks = []
    programs = sum(x.document["workload"]["fingerprint"] != y.document["workload"]["fingerprint"] for x, y in pairs)
    if programs:
        remarks.append(f"{programs} of them are of other programs under the same name: their ratios say nothing.")
    sources = {tuple(m.document["versions"].get("sources") for m in pair) for pair in pairs}
    if any(x != y for x, y in sources):
        remarks.append("The code differs between them.")
    machines = [(x.document["machine"], y.document["machine"]) for x, y in pairs]
    if any(x != y for x, y in machines):
        remarks.append("The machines differ between them.")
    return [" ".join(remarks)] if remarks else []


def _mean(values: dict[int, float]) -> float:
    return sum(values.values()) / len(values)
