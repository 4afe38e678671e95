"""Reads directories of mini-swe-agent trajectories (`*.traj.json`) as programs.

A trajectory keeps the whole conversation: ``messages`` (older runs: ``history``), a list of role and content,
where answers carry ``extra.response`` with the API's usage record and creation time. Version 1 writes the
command as a fenced block in the answer, version 2 as a tool call with ``extra.actions``; both are read.

- Tokens: from the usage record; where there is none, estimated at 4 characters per token.
- Tool class: first word of the command, past directory changes and variable assignments.
- Tool time: between the answer's and the next message's own time stamps, where both have one. Else the interval
  between the two calls' creation times less a generation time (2.26 s + 0.0116 s per output token, fitted on
  file-reading commands of the public SWE-bench Verified run). Else drawn, seeded, from published latencies.
"""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from eval.workload.latency import draw_seconds
from eval.workload.program import Program, Turn, WorkloadError

CHARS_PER_TOKEN = 4.0
_GENERATION_S = 2.26
_GENERATION_S_PER_TOKEN = 0.0116
_SHORTEST_TOOL_S = 0.05
"""Time stamps of whole seconds can put a quick command before the end of the answer that asked for it."""

_FENCE = re.compile(r"```[\w-]*\s*\n(.*?)```", re.DOTALL)
_SKIPPED = re.compile(r"^(?:\w+=\S*\s+|cd\s+\S+\s*(?:&&|;)\s*|sudo\s+|env\s+|time\s+|timeout\s+\S+\s+)*")
_WORD = re.compile(r"[\w./+-]+")


def load_trajectories(folder: Path, seed: int) -> list[Program]:
    """A program for each ``*.traj.json`` below ``folder``, in order of their paths.

    Raises:
        WorkloadError: naming the file and what is wrong with it; one bad file and nothing is returned.
    """
    paths = sorted(folder.rglob("*.traj.json"))
    if not paths:
        raise WorkloadError(f"{folder}: holds no trajectory; accepted: a directory with *.traj.json files")
    programs = [_program(path, seed) for path in paths]
    ids: dict[str, Path] = {}
    for program, path in zip(programs, paths, strict=True):
        if program.id in ids:
            raise WorkloadError(f"{path}: id: {program.id!r} is also the id of {ids[program.id]}")
        ids[program.id] = path
    return programs


def _program(path: Path, seed: int) -> Program:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise WorkloadError(f"{path}: cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise WorkloadError(f"{path}:{error.lineno}: not JSON: {error.msg} at column {error.colno}") from error
    messages = raw.get("messages", raw.get("history")) if isinstance(raw, dict) else None
    if not isinstance(messages, list) or not all(isinstance(m, dict) and "role" in m for m in messages):
        raise WorkloadError(f"{path}: messages: accepted: a list of messages with a role, as mini-swe-agent saves it")
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers:
        raise WorkloadError(f"{path}: messages: no assistant message; accepted: at least one answer of the model")
    name = path.name.removesuffix(".traj.json")
    rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
    turns = []
    chars = 0.0
    done = 0
    for order, index in enumerate(answers):
        # Characters of the prompt so far, for answers without a usage record; kept as a sum, not recounted.
        chars += sum(_chars(message) for message in messages[done:index])
        done = index
        message = messages[index]
        following = answers[order + 1] if order + 1 < len(answers) else None
        prompt, out = _tokens(message, chars, path, index)
        tool = _tool(message)
        pause = None if following is None else _tool_s(messages, index, following, out, tool, rng)
        turns.append(Turn(prompt, None, out, tool, pause))
    return Program(name, "mini-swe-agent", tuple(turns))


def _tokens(message: dict, chars_before: float, path: Path, index: int) -> tuple[int, int]:
    usage = _response(message).get("usage") or {}
    prompt, out = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if prompt is None or out is None:
        return max(1, round(chars_before / CHARS_PER_TOKEN)), max(1, round(_chars(message) / CHARS_PER_TOKEN))
    for field, value in (("prompt_tokens", prompt), ("completion_tokens", out)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise WorkloadError(
                f"{path}: messages[{index}].extra.response.usage.{field}: {value!r}; accepted: a whole number"
            )
    return max(1, prompt), max(1, out)


def _tool_s(messages: list[dict], index: int, following: int, out: int, tool: str, rng: np.random.Generator) -> float:
    answered, observed = _stamp(messages[index]), _stamp(messages[index + 1])
    if answered is not None and observed is not None and index + 1 < following:
        return max(_SHORTEST_TOOL_S, observed - answered)
    this, then = (_response(messages[i]).get("created") for i in (index, following))
    if isinstance(this, int | float) and isinstance(then, int | float):
        return max(_SHORTEST_TOOL_S, then - this - _GENERATION_S - _GENERATION_S_PER_TOKEN * out)
    return draw_seconds(rng, tool)


def _tool(message: dict) -> str:
    actions = (message.get("extra") or {}).get("actions") or []
    command = actions[0].get("command") if actions and isinstance(actions[0], dict) else None
    if not isinstance(command, str):
        fence = _FENCE.search(_text(message))
        command = fence.group(1) if fence else ""
    command = _SKIPPED.sub("", command.strip())
    word = _WORD.match(command)
    return word.group(0).rsplit("/", 1)[-1] or "other" if word else "none"


def _stamp(message: dict) -> float | None:
    value = message.get("timestamp", (message.get("extra") or {}).get("timestamp"))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _response(message: dict) -> dict:
    response = (message.get("extra") or {}).get("response")
    return response if isinstance(response, dict) else {}


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _chars(message: dict) -> int:
    return len(_text(message)) + sum(len(json.dumps(call)) for call in message.get("tool_calls") or [])
