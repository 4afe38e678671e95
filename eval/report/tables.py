"""The tables of a report: the same rows for Markdown and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval import defaults
from eval.report.figures import worst_emulation_error

NATIVE = frozenset(("fcfs", "lpm", "dfs-weight", "lof", "random", "routing-key", "hrrn", "shortest-prefill-first"))
"""Policies that SGLang brings itself: what there is to beat."""

Summary = dict[str, Any]
Table = tuple[list[str], list[list[str]]]


def best_native(runs: Sequence[Summary]) -> Summary | None:
    """The native run without our gate whose mean makespan is the least; None if there is none."""
    native = [r for r in runs if r["policy"] in NATIVE and r["admission"] in (None, "off") and r["makespan_s"]]
    return min(native, key=lambda r: (r["makespan_s"]["mean"], r["label"]), default=None)


def main_table(runs: Sequence[Summary]) -> Table:
    """One row per policy; ratios of mean makespan, above 1 where the policy is faster."""
    fcfs = next((r for r in runs if r["label"] in ("fcfs", "fcfs+off") and r["makespan_s"]), None)
    best = best_native(runs)
    head = ["policy", "done", "makespan mean s", "p50", "p95", "max", "TTFT mean s", "p95", "programs/h",
            "cached", "recomputed", "retracted"]  # fmt: skip
    real = any("tasks" in run for run in runs)
    if real:
        head += ["passed", "model mean s", "tools mean s"]
    if fcfs:
        head.append("vs fcfs")
    if best:
        head.append(f"vs best native ({best['label']})")
    rows = []
    for run in runs:
        makespan, ttft = run["makespan_s"] or {}, run["ttft_s"] or {}
        row = [
            run["label"] + (" (partial)" if run["partial"] else ""),
            f"{run['completed']}/{run['programs']}",
            *(_number(makespan.get(name)) for name in ("mean", "p50", "p95", "max")),
            *(_number(ttft.get(name)) for name in ("mean", "p95")),
            _number(run["throughput"]["programs_per_hour"]),
            _share(run["cached_tokens"], run["prompt_tokens"]),
            _share(run["recomputed_tokens"], run["prompt_tokens"]),
            "-" if run["retractions"] is None else str(run["retractions"]),
        ]
        if real:
            tasks = run["tasks"]
            row += [f"{tasks['passed']}/{tasks['checked']}"]
            row += [_number((tasks[name] or {}).get("mean")) for name in ("model_s", "tools_s")]
        row += [_ratio(base, run) for base in (fcfs, best) if base]
        rows.append(row)
    return head, rows


def tool_table(runs: Sequence[Summary]) -> Table:
    """The CPU side and the honesty of the run."""
    head = ["policy", "turns", "turn latency mean s", "p95", "tool wait mean s", "p95", "slots in use",
            "prompt error p50", "p99", "within 2%", "real s"]  # fmt: skip
    rows = []
    for run in runs:
        latency, wait, error = run["turn_latency_s"] or {}, run["tools"]["wait_s"] or {}, run["token_error"] or {}
        rows.append(
            [
                run["label"],
                str(run["turns"]),
                *(_number(latency.get(name)) for name in ("mean", "p95")),
                *(_number(wait.get(name)) for name in ("mean", "p95")),
                _percent(run["tools"]["slot_use"]),
                *(_percent(error.get(name), 2) for name in ("p50", "p99")),
                _percent(error.get("share_within_2pct")),
                _number(run["wall_s"]),
            ]
        )
    return head, rows


def remarks(runs: Sequence[Summary]) -> list[str]:
    """What a reader must know before believing the tables."""
    lines = []
    for run in runs:
        error = worst_emulation_error(run["emulation_error"])
        if error is not None and error > defaults.EMULATION_ERROR_LIMIT:
            lines.append(
                f"{run['label']}: emulated step times were off by {error:.0%} in the median, more than "
                f"{defaults.EMULATION_ERROR_LIMIT:.0%}: this machine is too slow for this speed and load; "
                "run again with a lower --speed."
            )
        if run["partial"]:
            lines.append(f"{run['label']}: interrupted; figures cover what had happened by then.")
        if run["failed"]:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(run["failures"].items()))
            lines.append(
                f"{run['label']}: {run['failed']} of {run['programs']} programs failed ({reasons}); "
                "makespans are of those that completed."
            )
        if run["left_out"]:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(run["left_out"].items()))
            lines.append(f"{run['label']}: programs left out because this server cannot hold them: {reasons}.")
        if run["token_error"] and run["token_error"]["share_within_2pct"] < 0.99:
            share = run["token_error"]["share_within_2pct"]
            lines.append(f"{run['label']}: only {share:.1%} of the prompts were within 2% of their traced length.")
        if run["cached_tokens"] is None and run["turns"]:
            lines.append(
                f"{run['label']}: the server does not report cached tokens; start it with --enable-cache-report."
            )
    return lines


def markdown(table: Table) -> str:
    """As a Markdown table."""
    head, rows = table
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plain(table: Table) -> str:
    """In columns, for a terminal."""
    head, rows = table
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    lines = [[cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
             for line in [head, *rows]]  # fmt: skip
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}%}"


def _share(part: int | None, whole: int) -> str:
    return "-" if part is None or not whole else f"{part / whole:.1%}"


def _ratio(base: Summary, run: Summary) -> str:
    return "-" if not run["makespan_s"] else f"{base['makespan_s']['mean'] / run['makespan_s']['mean']:.2f}x"
