"""From a run to the document that is kept of it: configuration, summary, one row per program, a coarse time line."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eval.experiment.alone import Alone, reusable_tokens
from eval.experiment.cell import Cell
from eval.experiment.machine import machine, sources
from eval.experiment.programs import fingerprint
from eval.replay.record import ProgramRecord, turns_of
from eval.replay.replay import RunResult
from eval.report.figures import Run, summarize
from eval.report.writer import versions
from eval.workload.source import Drawn
from mars_sglang.emulation.profiles import load_profile

FORMAT = 1
LOOKS = 160
"""Points of a time line, at most."""


@dataclass(frozen=True)
class Outcome:
    """What an engine gives back for one cell."""

    run: Run
    counters: dict[str, float] = field(default_factory=dict)


def document(cell: Cell, drawn: Drawn, outcome: Outcome, wall_s: float) -> dict[str, Any]:
    """The content of the cell's file. Times in emulated seconds, except ``wall_s``."""
    result = outcome.run.result
    return {
        "format": FORMAT,
        "key": cell.key,
        "label": cell.label,
        "configuration": cell.configuration(),
        "versions": versions() | {"sources": sources()},
        "machine": machine(),
        "wall_s": round(wall_s, 2),
        "workload": {"fingerprint": fingerprint(drawn.programs), "reusable_tokens": reusable_tokens(drawn.programs)},
        "summary": summarize(outcome.run),
        "counters": {name: round(float(value), 4) for name, value in outcome.counters.items()},
        "programs": _columns(cell, drawn, result.programs),
        "timeline": timeline(result),
    }


def _columns(cell: Cell, drawn: Drawn, records: list[ProgramRecord]) -> dict[str, list[Any]]:
    """One column per figure, one place per program, in the order of arrival."""
    alone = Alone(load_profile(cell.point.profile))
    known = {program.id: program for program in drawn.programs}
    columns: dict[str, list[Any]] = {name: [] for name in
                                     ("program", "arrival_s", "makespan_s", "failure", "turns", "prompt_tokens",
                                      "output_tokens", "largest_context", "alone_s")}  # fmt: skip
    for record in sorted(records, key=lambda record: (record.arrival_s, record.program)):
        program = known[record.program]
        row = {
            "program": record.program,
            "arrival_s": round(record.arrival_s, 3),
            "makespan_s": round(record.makespan_s, 3) if record.completed else None,
            "failure": record.failure,
            "turns": len(program.turns),
            "prompt_tokens": sum(turn.in_tokens for turn in program.turns),
            "output_tokens": sum(turn.out_tokens for turn in program.turns),
            "largest_context": program.largest_context,
            "alone_s": round(alone.program_s(program, cell.point.max_pause_s), 3),
        }
        for name, value in row.items():
            columns[name].append(value)
    return columns


def timeline(result: RunResult) -> dict[str, list[float | None]]:
    """At most :data:`LOOKS` looks: programs, those inside a tool, requests waiting and running, share of KV in use.

    From the engine's samples where it took any. Else counted from the records: a request waits until its first token,
    and the use of KV is unknown.
    """
    if result.samples:
        # With its last sample kept: every n-th from the end.
        samples = result.samples[:: -max(1, -(-len(result.samples) // LOOKS))][::-1]
        return {
            "at_s": [round(s.at_s, 1) for s in samples],
            "programs": [s.programs for s in samples],
            "in_tools": [s.in_tools for s in samples],
            "waiting": [s.waiting for s in samples],
            "running": [s.running for s in samples],
            "kv_share": [None if s.kv_share is None else round(s.kv_share, 4) for s in samples],
        }
    turns = list(turns_of(result.programs))
    if not turns:
        return {name: [] for name in ("at_s", "programs", "in_tools", "waiting", "running", "kv_share")}
    at = np.linspace(0.0, max(turn.last_token_s for turn in turns), LOOKS)
    ended = [(p.arrival_s, p.end_s if p.end_s is not None else at[-1]) for p in result.programs]
    tools = [(t.last_token_s, t.last_token_s + t.tool_wait_s + t.tool_s) for t in turns if t.tool is not None]
    return {
        "at_s": [round(float(t), 1) for t in at],
        "programs": _open_at(at, ended),
        "in_tools": _open_at(at, tools),
        "waiting": _open_at(at, [(t.sent_s, t.first_token_s) for t in turns]),
        "running": _open_at(at, [(t.first_token_s, t.last_token_s) for t in turns]),
        "kv_share": [None] * len(at),
    }


def _open_at(at: np.ndarray, spans: list[tuple[float, float]]) -> list[int]:
    """How many of the spans [from, to) are open at each time."""
    if not spans:
        return [0] * len(at)
    begins, ends = (np.sort(np.array(column, dtype=float)) for column in zip(*spans, strict=True))
    return [int(n) for n in np.searchsorted(begins, at, "right") - np.searchsorted(ends, at, "right")]
