"""Writes a benchmark's results into a directory."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from eval.replay.record import turns_of
from eval.report import plots, tables
from eval.report.figures import Run, summarize

_PACKAGES = ("mars-sglang", "sglang", "torch", "numpy", "aiohttp")


def versions() -> dict[str, str | None]:
    """Versions of what a result depends on, as installed beside the benchmark; None for what is not."""
    found: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def write(out: Path, runs: Sequence[Run], workload: dict[str, Any], profile: str | None) -> dict[str, Any]:
    """Writes summary.json, report.md, the raw records and the plots into ``out``; the summary."""
    out.mkdir(parents=True, exist_ok=True)
    summaries = [summarize(run) for run in runs]
    summary = {"workload": workload, "profile": profile, "versions": versions(), "runs": summaries}
    for run in runs:
        _lines(out / f"turns-{run.label}.jsonl.gz", (turn.row() for turn in turns_of(run.result.programs)))
        _lines(out / f"samples-{run.label}.jsonl.gz", (asdict(sample) for sample in run.result.samples))
    title = (
        f"{workload['name']}, {workload['programs']} programs, {workload['arrivals']}; {profile or 'server as found'}"
    )
    plots.makespans(runs, title, out / "makespan.png")
    plots.time_lines(runs, title, out / "timeline.png")
    (out / "report.md").write_text(_report(summary, title), encoding="utf-8")
    # Last, so that a directory with a summary is a finished one.
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def _report(summary: dict[str, Any], title: str) -> str:
    runs, workload = summary["runs"], summary["workload"]
    remarks = "\n".join(f"- {line}" for line in tables.remarks(runs))
    settings = "\n".join(f"- {name}: {value}" for name, value in workload.items())
    installed = ", ".join(f"{name} {version}" for name, version in summary["versions"].items() if version)
    parts = [
        f"# {title}",
        "Times are emulated seconds. Makespan: a program's arrival to its last response. A ratio above 1 means a "
        "shorter mean makespan. Cached and recomputed are shares of all prompt tokens; recomputed tokens had been "
        "computed before for the same program.",
        remarks,
        tables.markdown(tables.main_table(runs)),
        "## Tools, prompts, cost\n\n" + tables.markdown(tables.tool_table(runs)),
        "![makespan](makespan.png)\n\n![time line](timeline.png)",
        f"## Workload\n\n{settings}\n\nInstalled: {installed}.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=5) as file:
        for row in rows:
            file.write(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}) + "\n")
