"""The mixes of the MARS paper (arXiv:2604.26963), rebuilt from what is recorded here: ILR-1 to ILR-4, and S-ILR.

Published are the sources (SWE-bench, GitTaskBench, Terminal-Bench, RepoBench, InfiniteBench) and each mix's mean
prompt volume per request; a request there is a whole agent program. The rest is assumed:

- *Prompt volume* is the sum of the prompts of a program's turns, cached or not. It cannot be the size of one prompt:
  the mean of ILR-4 is above the 262,144 tokens that the paper's longest model takes, and a second model with half of
  that was served most of the same mixes.
- Two kinds of programs stand for the five sources: SWE-bench runs for the short ones, Claude Code sessions, whose
  first prompt already brings a repository, for the long ones. A mix is heavier by having more of the long ones.
- Both are cut to their first turns, since whole recordings have 5 to 60 times the published volume, and no prompt
  is longer than the smaller model of the paper takes.
- What *S-ILR* is was not found. Here it is a mix across: a quarter of its programs from each of the four.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, islice

import numpy as np

from eval.workload.generator import generate
from eval.workload.program import Program

VOLUME_TOKENS = {"ilr-1": 125_000, "ilr-2": 167_000, "ilr-3": 220_000, "ilr-4": 263_000}
"""Published mean of the prompt tokens of a program, all turns together."""

S_ILR = "s-ilr"
MIXES = (*VOLUME_TOKENS, S_ILR)

CONTEXT_TOKENS = 131_072
"""Prompt and answer of every turn fit into this: the context of the smaller model of the paper."""

SHORT_TURNS, LONG_TURNS = 12, 8
"""Turns at which a program of either kind ends. Means of about 73K and 430K tokens then enclose the published ones:
an eighth of ILR-1 is long, and half of ILR-4."""

SMALLEST_MIX = 50
"""Programs from which on the published mean is met within 2%: of fewer, a turn more or less cannot make up for the
programs that were drawn."""
_SETTLED = 0.005
"""Relative distance of the mean that is near enough."""


def volume_tokens(program: Program) -> int:
    """Prompt tokens of all its turns."""
    return sum(turn.in_tokens for turn in program.turns)


def target_tokens(name: str) -> float:
    """Mean volume that the mix ``name`` is to have."""
    return float(np.mean(list(VOLUME_TOKENS.values()))) if name == S_ILR else float(VOLUME_TOKENS[name])


def mix(name: str, n: int, seed: int, recorded: Callable[[str], list[Program]]) -> list[Program]:
    """``n`` programs of one of :data:`MIXES`, the same for a seed; generated ones where the recorded do not suffice.

    Args:
        recorded: loads the workloads ``swebench`` and ``claude-code``.

    Raises:
        ValueError: if there is no such mix, or ``n`` is below 1.
    """
    if name not in MIXES:
        raise ValueError(f"mix: {name!r}; accepted: {', '.join(MIXES)}")
    if n < 1:
        raise ValueError(f"n: {n}; accepted: 1 or more programs")
    rng = np.random.default_rng((seed, 2))
    short = _Kind(recorded("swebench"), 0.0, SHORT_TURNS, 2 * seed, rng)
    long = _Kind(recorded("claude-code"), 1.0, LONG_TURNS, 2 * seed + 1, rng)
    programs: list[Program] = []
    parts = list(VOLUME_TOKENS) if name == S_ILR else [name]
    for number, part in enumerate(parts):
        count = n * (number + 1) // len(parts) - n * number // len(parts)
        target = target_tokens(part)
        longs = round(count * (target - short.mean_tokens) / (long.mean_tokens - short.mean_tokens))
        cuts = [*islice(long.cuts, longs), *islice(short.cuts, count - longs)]
        programs += [program.cut(turns) for program, turns in _settled(cuts, count * target)]
    return [programs[i] for i in rng.permutation(len(programs))]


_Cut = tuple[Program, int]
"""A whole program, and the turns of it that are used."""


class _Kind:
    """Programs of one kind, cut to ``turns``: the recorded ones in drawn order, then generated ones without end."""

    def __init__(self, recorded: list[Program], share: float, turns: int, seed: int, rng: np.random.Generator) -> None:
        fitting = [(program, cut) for program in recorded if (cut := _cut(program, turns))]
        self.mean_tokens = float(np.mean([_volume(cut) for cut in fitting]))
        """Mean volume of the recorded ones."""
        order = rng.permutation(len(fitting))
        self.cuts = chain((fitting[i] for i in order), self._generated(share, turns, seed))

    @staticmethod
    def _generated(share: float, turns: int, seed: int) -> Iterator[_Cut]:
        done, count = 0, 64
        while True:
            # A longer list begins with the shorter one.
            for program in generate(count, seed, claude_code_share=share)[done:]:
                if cut := _cut(program, turns):
                    yield program, cut
            done, count = count, 2 * count


def _cut(program: Program, turns: int) -> int:
    """How many turns of it to use; 0 where it has no tool call in them, or does not fit."""
    turns = min(turns, len(program.turns))
    return turns if turns > 1 and program.cut(turns).largest_context <= CONTEXT_TOKENS else 0


def _settled(cuts: list[_Cut], target: float) -> list[_Cut]:
    """A turn more or less for some programs, until their volumes add up to the target."""
    total = sum(_volume(cut) for cut in cuts)
    changed = True
    while changed:
        changed = False
        for place, (program, turns) in enumerate(cuts):
            if abs(total - target) <= _SETTLED * target:
                return cuts
            other = turns + (1 if total < target else -1)
            if _cut(program, other) != other:
                continue
            gain = _volume((program, other)) - _volume((program, turns))
            if abs(total + gain - target) < abs(total - target):
                cuts[place], total, changed = (program, other), total + gain, True
    return cuts


def _volume(cut: _Cut) -> int:
    program, turns = cut
    return volume_tokens(program.cut(turns))
