"""Any number of programs, drawn from published figures: half like SWE-bench runs, half like Claude Code sessions.

Sizes follow the quantiles published with the recorded traces (`traces/README.md`); the points between those,
first prompts, growth and rewriting were measured on the same traces. Tool times follow TraceLab (`latency.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eval.workload.latency import draw_tools
from eval.workload.program import HUMAN, Program, Turn
from eval.workload.quantiles import Quantiles


@dataclass(frozen=True)
class _Kind:
    """What sets one kind of agent apart. All sizes in tokens."""

    name: str
    turns: Quantiles
    first: Quantiles
    out: Quantiles
    growth: Quantiles
    tool_tokens: Quantiles | None = None
    system_tokens: Quantiles | None = None
    last: Quantiles | None = None
    """Prompt of the last turn; growth is scaled so that a program ends there. Without it, growth adds up freely."""
    human_share: float = 0.0
    human_s: Quantiles | None = None
    compact_share: float = 0.0
    """Share of turns that rewrite most of the history."""
    rewrite_share: float = 0.0
    """Share of turns that rewrite only the end of it."""


SWEBENCH = _Kind(
    name="swebench-like",
    turns=Quantiles(((0, 13), (0.1, 22), (0.25, 27), (0.5, 36), (0.75, 48), (0.9, 66), (0.99, 110), (1, 142))),
    first=Quantiles(((0, 1321), (0.1, 1408), (0.5, 1672), (0.9, 2542), (0.99, 3967), (1, 5787))),
    out=Quantiles(((0, 14), (0.1, 27), (0.25, 43), (0.5, 89), (0.75, 282), (0.9, 686), (0.99, 2394), (1, 12000))),
    growth=Quantiles(((0, 10), (0.25, 19), (0.5, 92), (0.75, 288), (0.9, 759), (0.99, 3381), (1, 14847))),
    last=Quantiles(
        ((0, 5053), (0.1, 13030), (0.25, 16800), (0.5, 22130), (0.75, 29820), (0.9, 38220), (0.99, 87000), (1, 96172))
    ),
)
CLAUDE_CODE = _Kind(
    name="claude-code-like",
    turns=Quantiles(((0, 3), (0.1, 7), (0.25, 18), (0.5, 45), (0.75, 90), (0.9, 156), (0.99, 320), (1, 439))),
    first=Quantiles(((0, 6343), (0.1, 15818), (0.25, 18750), (0.5, 30000), (0.75, 103000), (0.9, 180000), (1, 400000))),
    out=Quantiles(
        ((0, 1), (0.01, 57), (0.1, 103), (0.25, 136), (0.5, 216), (0.75, 428), (0.9, 884), (0.99, 3800), (1, 16681))
    ),
    growth=Quantiles(((0, 1), (0.1, 10), (0.25, 48), (0.5, 281), (0.75, 947), (0.9, 2784), (0.99, 15668), (1, 60000))),
    tool_tokens=Quantiles(((0, 890), (0.1, 9292), (0.5, 12439), (0.9, 12740), (1, 17261))),
    system_tokens=Quantiles(((0, 498), (0.1, 2046), (0.5, 2776), (0.9, 3787), (1, 6530))),
    human_share=0.06,
    human_s=Quantiles(((0, 1), (0.1, 5), (0.25, 52), (0.5, 224), (0.75, 1015), (0.9, 3126), (0.99, 39529), (1, 77589))),
    compact_share=0.017,
    rewrite_share=0.038,
)


def generate(n: int, seed: int, *, claude_code_share: float = 0.5) -> list[Program]:
    """``n`` programs; the first ``k`` of a longer list are the list of ``k``.

    Raises:
        ValueError: if ``n`` is below 1 or the share is not in [0, 1].
    """
    if n < 1:
        raise ValueError(f"n: {n}; accepted: 1 or more programs")
    if not 0 <= claude_code_share <= 1:
        raise ValueError(f"claude_code_share: {claude_code_share}; accepted: 0 to 1")
    programs = []
    for index in range(n):
        # A stream of its own for every program, so that n does not change what program 7 is.
        rng = np.random.default_rng((seed, index))
        kind = CLAUDE_CODE if rng.random() < claude_code_share else SWEBENCH
        programs.append(_program(kind, f"generated-{seed}-{index:05d}", rng))
    return programs


def _program(kind: _Kind, name: str, rng: np.random.Generator) -> Program:
    count = max(1, round(_one(kind.turns, rng)))
    tool_tokens = round(_one(kind.tool_tokens, rng)) if kind.tool_tokens else 0
    system_tokens = round(_one(kind.system_tokens, rng)) if kind.system_tokens else 0
    first = max(round(_one(kind.first, rng)), tool_tokens + system_tokens + 64)
    outs = np.maximum(1, kind.out.draw(rng, count)).astype(int)
    growth = kind.growth.draw(rng, count)
    if kind.last is not None:
        outs, growth = _fit(outs, growth, room=_one(kind.last, rng) - first)
    tools, seconds = draw_tools(rng, count)
    human = rng.random(count) < kind.human_share
    human[-1] = kind.human_s is not None
    change = rng.random(count)
    turns = []
    prompt, reuse = first, None
    for i in range(count):
        out = int(outs[i])
        tool = HUMAN if human[i] else tools[i]
        pause = None if i == count - 1 else round(_one(kind.human_s, rng) if human[i] else float(seconds[i]), 3)
        turns.append(Turn(prompt, reuse, out, tool, pause))
        before = prompt
        prompt, reuse = before + out + max(1, round(growth[i])), None
        if change[i] < kind.compact_share:
            prompt, reuse = _compacted(before, tool_tokens + system_tokens, rng)
        elif change[i] < kind.compact_share + kind.rewrite_share:
            reuse = int(before * 0.998)
    return Program(name, f"generated/{kind.name}", tuple(turns), tool_tokens, system_tokens)


def _fit(outs: np.ndarray, growth: np.ndarray, room: float) -> tuple[np.ndarray, np.ndarray]:
    """Scales growth, and answers only if they alone take over 80% of the room, so that a program ends where drawn."""
    room = max(room, len(outs) * 24.0)
    answers = outs[:-1].sum()
    if answers > 0.8 * room:
        outs = np.maximum(1, outs * (0.8 * room / answers)).astype(int)
        answers = outs[:-1].sum()
    steps = growth[:-1].sum()
    return outs, growth * ((room - answers) / steps) if steps else growth


def _compacted(before: int, shared: int, rng: np.random.Generator) -> tuple[int, int]:
    """Prompt and reuse after a history of ``before`` tokens was replaced by a summary of it."""
    reuse = min(max(shared, int(before * rng.uniform(0.05, 0.2))), before)
    return max(reuse + 256, int(before * rng.uniform(0.25, 0.95))), reuse


def _one(quantiles: Quantiles, rng: np.random.Generator) -> float:
    return float(quantiles.draw(rng, 1)[0])
