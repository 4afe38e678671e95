"""What became of a fleet: its turns, how its tasks ended, and whether that was alike under every policy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.agents.fleet import Fleet, Planned
from eval.replay.record import TurnRecord, recomputed
from eval.report.figures import spread


def add_turns(fleet: Fleet, exported: Mapping[str, dict]) -> None:
    """Fill the fleet's records with what its drivers told, and with first tokens as the server ``exported`` them.

    Between two turns are the tool and the agent's own work, together ``tool_s``. A prompt is taken to extend the
    turn before, for agents keep their history.
    """
    for record in fleet.records:
        told = sorted(fleet.turns.get(record.program, ()), key=lambda turn: turn["sent_s"])
        context = None
        for number, turn in enumerate(told):
            sent_s, ended_s = (turn[name] - fleet.began_s for name in ("sent_s", "ended_s"))
            first = exported.get(turn["id"], {}).get("prefill_finished_time")
            before = record.turns[-1] if record.turns else None
            if before is not None:
                before.tool_s = sent_s - before.last_token_s
            prompt, cached = turn["prompt_tokens"], turn["cached_tokens"]
            record.turns.append(
                TurnRecord(
                    program=record.program,
                    turn=number,
                    arrival_s=sent_s if before else record.arrival_s,
                    sent_s=sent_s,
                    first_token_s=first - fleet.began_s if first else ended_s,
                    last_token_s=ended_s,
                    traced_prompt_tokens=0,
                    prompt_tokens=prompt,
                    cached_tokens=cached,
                    output_tokens=turn["output_tokens"],
                    kept_tokens=min(context or 0, prompt),
                    recomputed_tokens=recomputed(context, context or 0, prompt, cached),
                    # In the text itself, where the answer calls nothing.
                    tool=(turn["tool"] or "bash") if number + 1 < len(told) else None,
                )
            )
            context = prompt + turn["output_tokens"]
        if record.failure is None and not record.turns:
            record.failure, record.detail = "no_turns", "its agent ended well and was never answered"
        elif record.failure is None:
            record.end_s = record.turns[-1].last_token_s


def exported(folder: Path) -> dict[str, dict]:
    """What the server wrote of each request (``--export-metrics-to-file``), by request id."""
    found = {}
    for path in folder.glob("*.log"):
        for line in path.read_text(encoding="utf-8").splitlines():
            request = json.loads(line)
            found[request["id"]] = request
    return found


def ends(plan: Sequence[Planned], fleet: Fleet, folder: Path) -> dict[str, Any]:
    """Runs every task's check and takes the digest of its repository; ``tasks`` of a run's summary."""
    programs = {}
    for planned, record in zip(plan, fleet.records, strict=True):
        repository = folder / planned.id / "repository"
        programs[planned.id] = {
            "task": planned.task.name,
            "passed": _passes(planned, repository),
            "digest": planned.task.digest(repository) if repository.is_dir() else None,
            "ended": fleet.reports.get(planned.id, {}).get("ended"),
            "model_s": round(sum(turn.last_token_s - turn.sent_s for turn in record.turns), 3),
            "tools_s": round(sum(turn.tool_s for turn in record.turns), 3),
        }
    completed = [programs[record.program] for record in fleet.records if record.completed]
    return {
        "checked": len(programs),
        "passed": sum(program["passed"] for program in programs.values()),
        "model_s": spread([program["model_s"] for program in completed]),
        "tools_s": spread([program["tools_s"] for program in completed]),
        "late_s": round(max(fleet.late_s.values(), default=0.0), 3),
        "agents": sorted({f"{report['agent']} {report['version']}" for report in fleet.reports.values()}),
        "programs": programs,
    }


def _passes(planned: Planned, repository: Path) -> bool:
    try:
        return planned.task.passes(repository)
    except OSError:
        return False


def differences(runs: Mapping[str, dict[str, Any]]) -> list[str]:
    """A sentence on each program that did not end alike, or did not pass. ``runs``: ``tasks`` of summaries by label."""
    lines = []
    programs = next(iter(runs.values()))["programs"] if runs else {}
    for program in programs:
        failed = [label for label, tasks in runs.items() if not tasks["programs"][program]["passed"]]
        if failed:
            lines.append(f"{program}: the task's check fails under {', '.join(failed)}")
        if len({tasks["programs"][program]["digest"] for tasks in runs.values()}) > 1:
            lines.append(f"{program}: the final repository is not the same under {', '.join(runs)}")
    return lines
