"""From what a user writes after `--workload` to the programs that a run replays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from eval import defaults
from eval.workload.generator import generate
from eval.workload.jsonl import load_jsonl
from eval.workload.mixes import MIXES, mix
from eval.workload.program import Program, WorkloadError
from eval.workload.trajectory import load_trajectories

_TRACES = Path(__file__).parent / "traces"
_RECORDED = {
    "swebench": ("swebench-verified.jsonl.gz",),
    "claude-code": ("claude-code.jsonl.gz",),
    "mix": ("swebench-verified.jsonl.gz", "claude-code.jsonl.gz"),
}
ACCEPTED = (
    f"swebench, claude-code, mix, generated, {', '.join(MIXES)}, generated or one of the last five with :N for N "
    "programs, a .jsonl or .jsonl.gz file, or a directory of *.traj.json"
)


def load(name: str, seed: int = defaults.SEED) -> list[Program]:
    """The programs of a named workload, a file or a directory; ``seed`` is for what has to be drawn.

    Raises:
        WorkloadError: if there is no such workload, or it cannot be read whole.
    """
    if name in _RECORDED:
        return [program for file in _RECORDED[name] for program in load_jsonl(_TRACES / file)]
    made, _, _ = name.partition(":")
    if made == "generated":
        return generate(_count(name), seed)
    if made in MIXES:
        return mix(made, _count(name), seed, load)
    path = Path(name)
    if path.is_dir():
        return load_trajectories(path, seed)
    if path.is_file():
        return load_jsonl(path)
    raise WorkloadError(f"workload: {name!r} is no workload, file or directory; accepted: {ACCEPTED}")


def _count(name: str) -> int:
    made, colon, count = name.partition(":")
    if not colon:
        return defaults.GENERATED_PROGRAMS
    if not count.isascii() or not count.isdigit() or int(count) < 1:
        raise WorkloadError(f"workload: {name!r}; accepted: {made}:N with N a whole number of programs, 1 or more")
    return int(count)


@dataclass(frozen=True)
class Drawn:
    """Programs picked for a run, and those that were picked first but left out, by reason."""

    programs: tuple[Program, ...]
    left_out: dict[str, int]


def draw(programs: list[Program], n: int, seed: int, refuse: Callable[[Program], str | None] = lambda _: None) -> Drawn:
    """``n`` programs in a seeded order, without replacement until every one was used, then again.

    A program that ``refuse`` gives a reason for is left out, counted once, and the next one takes its place.
    Those used again get ``#2``, ``#3``, ... after their id.

    Raises:
        WorkloadError: if every program is refused.
    """
    picked: list[Program] = []
    left_out: dict[str, int] = {}
    refused: set[int] = set()
    for index, again in _order(len(programs), seed):
        if again and len(refused) == len(programs):
            reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
            raise WorkloadError(f"workload: none of its {len(programs)} programs can be replayed: {reasons}")
        if index in refused:
            continue
        program = programs[index]
        reason = refuse(program)
        if reason is not None:
            refused.add(index)
            left_out[reason] = left_out.get(reason, 0) + 1
            continue
        picked.append(replace(program, id=f"{program.id}#{again + 1}") if again else program)
        if len(picked) == n:
            return Drawn(tuple(picked), left_out)
    raise AssertionError("the order of programs has no end")


def _order(count: int, seed: int) -> Iterator[tuple[int, int]]:
    rng = np.random.default_rng(seed)
    again = 0
    while True:
        for index in rng.permutation(count):
            yield int(index), again
        again += 1
