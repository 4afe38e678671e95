"""Reads the JSON-lines format of the recorded workloads, plain or gzip: all of a file, or an error."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from eval.workload.program import Program, Turn, WorkloadError

_PROGRAM_FIELDS = frozenset({"id", "src", "turns", "tool_tokens", "system_tokens"})
_TURN_FIELDS = frozenset({"in", "reuse", "out", "tool", "tool_s"})


def load_jsonl(path: Path) -> list[Program]:
    """All programs of ``path`` (``.jsonl`` or ``.jsonl.gz``).

    Raises:
        WorkloadError: naming file, line and field. Nothing is returned of a file with one bad line.
    """
    programs: list[Program] = []
    seen: dict[str, int] = {}
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                program = _program(line, f"{path}:{number}")
                if program.id in seen:
                    raise WorkloadError(
                        f"{path}:{number}: id: {program.id!r} is already on line {seen[program.id]}; "
                        "every program needs an id of its own"
                    )
                seen[program.id] = number
                programs.append(program)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise WorkloadError(f"{path}: cannot be read: {error}; accepted: JSON lines, plain or gzip (.gz)") from error
    if not programs:
        raise WorkloadError(f"{path}: holds no program; accepted: one JSON object per line")
    return programs


def _program(line: str, where: str) -> Program:
    try:
        raw = json.loads(line)
    except json.JSONDecodeError as error:
        raise WorkloadError(f"{where}: not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(raw, dict):
        raise WorkloadError(f"{where}: {_short(raw)} is not an object; accepted: one program per line")
    _known(raw, _PROGRAM_FIELDS, where)
    turns = raw.get("turns")
    if not isinstance(turns, list) or not turns:
        raise WorkloadError(f"{where}: turns: {_short(turns)}; accepted: a list of at least one turn")
    return Program(
        id=_text(raw, "id", where),
        src=_text(raw, "src", where),
        turns=tuple(_turn(turn, f"{where}: turns[{i}]") for i, turn in enumerate(turns)),
        tool_tokens=_count(raw, "tool_tokens", where, default=0),
        system_tokens=_count(raw, "system_tokens", where, default=0),
    )


def _turn(raw: Any, where: str) -> Turn:
    if not isinstance(raw, dict):
        raise WorkloadError(f"{where}: {_short(raw)} is not an object")
    _known(raw, _TURN_FIELDS, where)
    in_tokens = _count(raw, "in", where, least=1)
    reuse = _count(raw, "reuse", where) if raw.get("reuse") is not None else None
    if reuse is not None and reuse > in_tokens:
        raise WorkloadError(f"{where}.reuse: {reuse} is more than the prompt ({in_tokens} tokens); accepted: 0 to in")
    return Turn(in_tokens, reuse, _count(raw, "out", where, least=1), _text(raw, "tool", where), _pause(raw, where))


def _pause(raw: dict, where: str) -> float | None:
    value = raw.get("tool_s")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise WorkloadError(f"{where}.tool_s: {_short(value)}; accepted: seconds, 0 or more, or null")
    return float(value)


def _count(raw: dict, field: str, where: str, least: int = 0, default: int | None = None) -> int:
    value = raw.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise WorkloadError(f"{where}.{field}: {_short(value)}; accepted: a whole number of tokens, {least} or more")
    return value


def _text(raw: dict, field: str, where: str) -> str:
    value = raw.get(field)
    if not isinstance(value, str) or not value:
        raise WorkloadError(f"{where}.{field}: {_short(value)}; accepted: a non-empty string")
    return value


def _known(raw: dict, fields: frozenset[str], where: str) -> None:
    # A misspelt field would otherwise be read as its default, and the replay be quietly another workload.
    unknown = sorted(set(raw) - fields)
    if unknown:
        raise WorkloadError(f"{where}: {unknown[0]!r} is no field; accepted: {', '.join(sorted(fields))}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
