"""Does a tenant that floods slow another one down? A quiet tenant's programs, alone and beside a neighbour.

    python -m eval.fairness

In the simulator. The quiet tenant's programs come at the same times with and without the neighbour, whose programs
come at a multiple of their rate for as long as the quiet one's last. Every admission policy is run as it is and
inside :class:`FairShare`, and that again with an engine that prefills the quiet tenant's turns first.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from eval.replay.arrivals import Arrivals
from eval.replay.record import ProgramRecord
from eval.report.tables import Table, markdown
from eval.setup import NATIVE_TURNS, Setup
from eval.simulator.native import native_policy
from eval.simulator.simulate import CLIENT_S, Simulation
from eval.workload import Program, WorkloadError, draw, load
from mars_sglang.config import ADMISSION_OFF
from mars_sglang.core.admission.fair_share import FairShare
from mars_sglang.core.policy import TurnPolicy, admission_policy, turn_policy
from mars_sglang.core.views import TurnView
from mars_sglang.emulation.profiles import load_profile

QUIET, LOUD = "quiet", "loud"

#: How the tenants are told apart: not at all, at the gate, or at the gate and in the engine's queue.
NOT, GATE, QUEUE = "no", "gate", "gate and queue"

#: Pauses are cut to it, as in the other experiments.
_MAX_PAUSE_S = 60.0


@dataclass(frozen=True)
class Neighbours:
    """What both tenants run."""

    workload: str
    profile: str
    programs: int
    """Of the quiet tenant."""
    rate: float
    """Its programs per second."""


@dataclass(frozen=True)
class Case:
    """One run of :class:`Neighbours`."""

    turn: str
    admission: str
    fair: str
    """One of :data:`NOT`, :data:`GATE` and :data:`QUEUE`."""
    times: float
    """The neighbour's load, as a multiple of the quiet tenant's; 0 without a neighbour."""
    seed: int


@dataclass(frozen=True)
class Seen:
    """What became of the quiet tenant's programs, in emulated seconds."""

    makespans_s: tuple[float, ...]
    """In the order of arrival."""
    held_s: tuple[float, ...]
    """At the gate, by program."""
    ttft_s: tuple[float, ...]
    """By turn, without what it waited at the gate."""
    token_s: float
    """Per output token after the first."""
    loud_per_hour: float
    """Programs that the neighbour completed while the quiet tenant's ran."""


@dataclass(frozen=True)
class At(Arrivals):
    """Arrivals at given times."""

    at_s: tuple[float, ...] = ()

    def times(self, n: int, seed: int) -> list[float]:
        return list(self.at_s)


class QuietFirst:
    """A turn policy with the outer priority set: the quiet tenant's turns go before all others."""

    def __init__(self, policy: TurnPolicy) -> None:
        self._policy = policy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def order_turns(self, turns: Sequence[TurnView], now_s: float) -> list[int]:
        ranked = [turn._replace(priority=not (turn.program or "").startswith(QUIET)) for turn in turns]
        return self._policy.order_turns(ranked, now_s)


def run(neighbours: Neighbours, case: Case) -> Seen:
    """One run, up to the end of the quiet tenant's last program."""
    programs, at_s = _programs(neighbours, case.times, case.seed)
    turn = turn_policy(case.turn) if case.turn not in NATIVE_TURNS else native_policy(case.turn)
    if case.fair == QUEUE:
        turn = QuietFirst(turn)
    admission = None if case.admission == ADMISSION_OFF else admission_policy(case.admission)
    if admission is not None and case.fair != NOT:
        admission = FairShare(admission, {})
    log: list[tuple] = []
    simulation = Simulation(
        programs, At(at_s=at_s), Setup(case.turn), load_profile(neighbours.profile), case.seed, None, _MAX_PAUSE_S,
        True, False, log, CLIENT_S, turn, admission, {program.id: program.id.split(":")[0] for program in programs},
    )  # fmt: skip
    ended = logged = 0
    while ended < neighbours.programs and simulation.step():
        ended += sum(kind == "done" and program.startswith(QUIET) for _, kind, program, *_ in log[logged:])
        logged = len(log)
    return _seen(simulation.outcome().result.programs, log)


def _seen(records: Sequence[ProgramRecord], log: Sequence[tuple]) -> Seen:
    quiet = [record for record in records if record.program.startswith(QUIET)]
    held_s = {record.program: 0.0 for record in quiet}
    passed_s: dict[str, float] = {}
    ttft_s = []
    for at_s, kind, program, _, *figures in log:
        if program not in held_s:
            continue
        if kind == "first":
            ttft_s.append(at_s - passed_s[program])
        elif kind in ("ask", "admit"):
            passed_s[program] = at_s
            held_s[program] += figures[0] if kind == "admit" else 0.0
    turns = [turn for record in quiet for turn in record.turns]
    decoded_s = sum(turn.last_token_s - turn.first_token_s for turn in turns)
    loud = sum(record.completed for record in records) - len(quiet)
    return Seen(
        makespans_s=tuple(record.makespan_s for record in quiet),
        held_s=tuple(held_s.values()),
        ttft_s=tuple(ttft_s),
        token_s=decoded_s / sum(turn.output_tokens - 1 for turn in turns),
        loud_per_hour=3600 * loud / max(record.end_s for record in quiet),
    )


def _programs(neighbours: Neighbours, times: float, seed: int) -> tuple[list[Program], tuple[float, ...]]:
    """Both tenants' programs and when they come."""
    count = neighbours.programs
    at_s = Arrivals(neighbours.rate).times(count, seed)
    limit = load_profile(neighbours.profile).model.context_tokens
    drawn = draw(_loaded(neighbours.workload), count, seed, lambda p: "long" if p.largest_context > limit else None)
    quiet = [replace(program, id=f"{QUIET}:{program.id}") for program in drawn.programs]
    if not times:
        return quiet, tuple(at_s)
    # Long enough for the quiet tenant's programs to take three times as long as the last arrival says.
    loud_count = round(3 * times * count)
    drawn = draw(_loaded(neighbours.workload), loud_count, seed + 1000)
    loud = [replace(program, id=f"{LOUD}:{program.id}") for program in drawn.programs]
    loud_at_s = Arrivals(neighbours.rate * times).times(loud_count, seed + 1000)
    return quiet + loud, (*at_s, *loud_at_s)


@cache
def _loaded(workload: str) -> list[Program]:
    return [program.cut(50) for program in load(workload)]


def table(
    neighbours: Neighbours, pairs: Sequence[tuple[str, str]], loads: Sequence[float], seeds: Sequence[int]
) -> Table:
    """P50 and P95 of the quiet tenant's makespans per load, and at the last one what it waited at the gate and in the
    engine, and what the neighbour completed. All seeds' programs count together.

    Args:
        pairs: turn policy and admission policy.
        loads: of the neighbour, as multiples of the quiet tenant's.
    """
    head = ["turns + admission", "tenants told apart", *(f"beside {times:g}x" if times else "alone" for times in loads)]
    head += ["P95 held s", "P95 TTFT s", "ms per token", "neighbour per hour"]
    rows = []
    for turn, admission in pairs:
        for fair in _told_apart(turn, admission):
            row = [f"{turn} + {admission}", fair]
            for times in loads:
                seen = [run(neighbours, Case(turn, admission, fair, times, seed)) for seed in seeds]
                p50, p95 = np.percentile([s for one in seen for s in one.makespans_s], (50, 95))
                row.append(f"{p50:.0f} / {p95:.0f}")
            row.append(f"{np.percentile([s for one in seen for s in one.held_s], 95):.1f}")
            row.append(f"{np.percentile([s for one in seen for s in one.ttft_s], 95):.2f}")
            row.append(f"{1000 * np.mean([one.token_s for one in seen]):.1f}")
            row.append(f"{np.mean([one.loud_per_hour for one in seen]):.0f}")
            print(" ".join(row), file=sys.stderr)
            rows.append(row)
    return head, rows


def _told_apart(turn: str, admission: str) -> Iterator[str]:
    yield NOT
    if admission != ADMISSION_OFF:
        yield GATE
        # SGLang's own orders take no priorities here.
        if turn not in NATIVE_TURNS:
            yield QUEUE


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 if the workload cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m eval.fairness", description=__doc__.splitlines()[0])
    parser.add_argument("--workload", default="swebench")
    parser.add_argument("--profile", default="h200-qwen3-coder-30b")
    parser.add_argument("--programs", type=int, default=20, help="of the quiet tenant")
    parser.add_argument("--rate", type=float, default=0.02, help="of the quiet tenant, in programs per second")
    parser.add_argument("--loads", default="0,5,10,20", help="of the neighbour, in multiples of the rate")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument(
        "--policies",
        default="fcfs+off,fcfs+footprint,fcfs+thunder,fcfs+window:24,mars+footprint,mars+mars",
        help="turn policy + admission policy, several with commas between",
    )
    args = parser.parse_args(argv)
    neighbours = Neighbours(args.workload, args.profile, args.programs, args.rate)
    pairs = [tuple(pair.split("+")) for pair in args.policies.split(",")]
    loads, seeds = map(float, args.loads.split(",")), map(int, args.seeds.split(","))
    try:
        print(markdown(table(neighbours, pairs, list(loads), list(seeds))))
    except (WorkloadError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
