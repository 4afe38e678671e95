"""The figures of a run, by plain arithmetic on its records. Times in emulated seconds, except ``wall_s``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eval import defaults
from eval.replay.record import TurnRecord, turns_of
from eval.replay.replay import INTERRUPTED, RunResult


@dataclass
class Run:
    """One policy's run: what was asked, what came of it, and what the server said of itself."""

    label: str
    policy: str
    admission: str | None
    result: RunResult
    tool_slots: int | None
    """None: tools never wait for one."""
    wall_s: float = 0.0
    replayer_cpu_s: float = 0.0
    """CPU time of the replaying process: what it took from the server on the same machine."""
    left_out: dict[str, int] = field(default_factory=dict)
    retractions: int | None = None
    emulation_error: dict[str, Any] | None = None
    mars: dict[str, Any] | None = None
    """Counters of our scheduler at the end, as it reports them; None under SGLang's own."""
    server: dict[str, Any] = field(default_factory=dict)
    """Model, version and limits, for the reader."""
    tasks: dict[str, Any] | None = None
    """Of real agents: how their tasks ended (:func:`eval.agents.ends.ends`); None of replayed ones."""


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Mean, percentiles (linear between neighbours) and maximum; None of nothing."""
    if len(values) == 0:
        return None
    p50, p90, p95, p99 = np.percentile(values, (50, 90, 95, 99))
    figures = {"mean": np.mean(values), "p50": p50, "p90": p90, "p95": p95, "p99": p99, "max": np.max(values)}
    return {name: round(float(value), 4) for name, value in figures.items()}


def summarize(run: Run) -> dict[str, Any]:
    """The entry of one run in ``summary.json``."""
    programs = run.result.programs
    turns = list(turns_of(programs))
    completed = [program for program in programs if program.completed]
    failed = [program for program in programs if program.failure not in (None, INTERRUPTED)]
    end_s = max((turn.last_token_s for turn in turns), default=0.0)
    begin_s = min((program.arrival_s for program in programs), default=0.0)
    took_s = end_s - begin_s
    return {
        "policy": run.policy,
        "admission": run.admission,
        "label": run.label,
        "partial": run.result.partial,
        "programs": len(programs),
        "completed": len(completed),
        "failed": len(failed),
        "interrupted": len(programs) - len(completed) - len(failed),
        "failures": dict(Counter(program.failure for program in failed)),
        "failed_programs": [
            {"program": p.program, "reason": p.failure, "detail": p.detail, "turns_done": len(p.turns)} for p in failed
        ],
        "left_out": run.left_out,
        "turns": len(turns),
        "makespan_s": spread([program.makespan_s for program in completed]),
        "ttft_s": spread([turn.first_token_s - turn.sent_s for turn in turns]),
        "turn_latency_s": spread([turn.last_token_s - turn.sent_s for turn in turns]),
        "throughput": {
            "programs_per_hour": round(3600 * len(completed) / took_s, 3) if took_s > 0 else None,
            "output_tokens_per_s": round(sum(t.output_tokens for t in turns) / took_s, 3) if took_s > 0 else None,
        },
        "took_s": round(took_s, 3),
        "prompt_tokens": sum(turn.prompt_tokens for turn in turns),
        "cached_tokens": _known_sum([turn.cached_tokens for turn in turns]),
        "recomputed_tokens": _known_sum([turn.recomputed_tokens for turn in turns]),
        "output_tokens": sum(turn.output_tokens for turn in turns),
        "retractions": run.retractions,
        "tools": tool_figures(turns, run.result.tool_busy_s, run.tool_slots, took_s),
        "token_error": token_error(turns),
        "wall_s": round(run.wall_s, 2),
        "replayer_cpu_s": round(run.replayer_cpu_s, 2),
        "emulation_error": run.emulation_error,
        "mars": run.mars,
        "server": run.server,
    } | ({} if run.tasks is None else {"tasks": run.tasks})


def token_error(turns: Sequence[TurnRecord]) -> dict[str, float] | None:
    """How far prompts were from their traced length, relative; and the share of them within the tolerance. None where
    none was traced."""
    errors = np.array([abs(t.prompt_tokens / t.traced_prompt_tokens - 1) for t in turns if t.traced_prompt_tokens])
    if not len(errors):
        return None
    p50, p99 = np.percentile(errors, (50, 99))
    within = float((errors <= defaults.TOKEN_TOLERANCE).mean())
    return {"p50": round(float(p50), 6), "p99": round(float(p99), 6), "share_within_2pct": round(within, 6)}


def tool_figures(turns: Sequence[TurnRecord], busy_s: float, slots: int | None, took_s: float) -> dict[str, Any]:
    """The CPU side: how long tools waited for a slot, and how busy the slots were."""
    waits = [turn.tool_wait_s for turn in turns if turn.tool is not None and turn.tool != "human"]
    return {
        "calls": len(waits),
        "slots": slots,
        "wait_s": spread(waits),
        "slot_use": round(busy_s / (slots * took_s), 4) if slots and took_s > 0 else None,
    }


def worst_emulation_error(reported: dict[str, Any] | None) -> float | None:
    """The largest of the median errors that an emulated server reports of its step times; None if it reports none."""
    values = [value for name, value in _leaves(reported or {}) if "median" in name or "p50" in name]
    return max((abs(value) for value in values), default=None)


def _leaves(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in tree.items():
        if isinstance(value, dict):
            found += _leaves(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((prefix + name, float(value)))
    return found


def _known_sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
