"""The pauses of many programs in the order in which a server would live through them."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from eval.workload import Program
from eval.workload.program import HUMAN
from mars_sglang.core.pauses import PauseKey

LOOKS_S = (1, 2, 5, 10, 20, 60, 120, 300, 600, 1200, 3600, 7200, 18000, 43200, 86400)
"""When a pause that goes on is looked at again: some ten looks in the longest hours, none in a short call."""

# Generation time, fitted on the recorded SWE-bench runs (`eval/workload/traces/README.md`).
_GENERATION_S = 2.26
_GENERATION_S_PER_TOKEN = 0.0116


class What(Enum):
    START = "start"
    LOOK = "look"
    """The pause goes on."""
    END = "end"


@dataclass(frozen=True, slots=True)
class Pause:
    """Between two turns, or after the last one, which never ends (``seconds`` infinite)."""

    number: int
    """Pauses that started before it."""
    key: PauseKey
    seconds: float
    context_tokens: int
    """KV that is kept or given up: prompt and answer of the turn before it."""


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to a pause. ``elapsed_s`` is how long it has lasted then."""

    at_s: float
    what: What
    pause: Pause
    elapsed_s: float


def steps(programs: Sequence[Program], rate: float, seed: int, *, ends_said: bool = True) -> Iterator[Step]:
    """Starts, looks and ends of all pauses in order of time; nothing is told of a pause's end before it.

    Programs arrive in their order as a Poisson process of ``rate`` per second. A turn takes the time that the
    recordings' answers took; a turn without a recorded pause is followed by the next at once. With ``ends_said``
    there is no pause after the last turn, else one that never ends.
    """
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1.0 / rate, len(programs)))
    # (time, tie-break, program, turn, pause, look): a turn's end where there is no pause yet, else a look or the end.
    heap: list[tuple[float, int, int, int, Pause | None, int]] = []
    pushed = started = 0

    def push(at_s: float, program: int, turn: int, pause: Pause | None = None, look: int = 0) -> None:
        nonlocal pushed
        heapq.heappush(heap, (at_s, pushed, program, turn, pause, look))
        pushed += 1

    def push_next_step(program: int, turn: int, pause: Pause, start_s: float, look: int) -> None:
        if look < len(LOOKS_S) and LOOKS_S[look] < pause.seconds:
            push(start_s + LOOKS_S[look], program, turn, pause, look)
        elif pause.seconds < math.inf:
            push(start_s + pause.seconds, program, turn, pause, len(LOOKS_S))

    for index, program in enumerate(programs):
        push(float(arrivals[index]) + generation_s(program, 0), index, 0)
    while heap:
        at_s, _, index, number, pause, look = heapq.heappop(heap)
        program = programs[index]
        turn, last = program.turns[number], number + 1 == len(program.turns)
        if pause is None:
            if turn.tool_s is None and not last:
                push(at_s + generation_s(program, number + 1), index, number + 1)
            elif turn.tool_s is not None or not ends_said:
                seconds = math.inf if last or turn.tool_s is None else turn.tool_s
                pause = Pause(started, _key(program, turn.tool), seconds, turn.in_tokens + turn.out_tokens)
                started += 1
                yield Step(at_s, What.START, pause, 0.0)
                push_next_step(index, number, pause, at_s, 0)
        elif look < len(LOOKS_S):
            yield Step(at_s, What.LOOK, pause, float(LOOKS_S[look]))
            push_next_step(index, number, pause, at_s - LOOKS_S[look], look + 1)
        else:
            yield Step(at_s, What.END, pause, pause.seconds)
            if not last:
                push(at_s + generation_s(program, number + 1), index, number + 1)


def generation_s(program: Program, turn: int) -> float:
    """Seconds that the answer of a turn took where the workload was recorded."""
    return _GENERATION_S + _GENERATION_S_PER_TOKEN * program.turns[turn].out_tokens


def _key(program: Program, tool: str) -> PauseKey:
    """Recorded SWE-bench runs name the first word of a shell command; others name a class of tools."""
    if program.src.startswith(("swebench", "mini-swe-agent")) and tool != HUMAN:
        return PauseKey("shell", tool, program.id)
    return PauseKey(tool, None, program.id)
