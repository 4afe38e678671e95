"""How well the turns that a program still has are predicted: ``python -m eval.prediction.turns``.

Programs arrive in a drawn order and overlap; a prediction is made as a turn is asked for, from the turns and programs
that ended before. Nothing is known at the start.
"""

from __future__ import annotations

import argparse
import heapq
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eval import defaults
from eval.prediction.order import generation_s
from eval.workload import Program, WorkloadError, load
from eval.workload.program import HUMAN
from mars_sglang.core import program as core
from mars_sglang.core.remaining import PRIOR_TURNS, RemainingTurns

RATES = {"swebench": 0.1, "claude-code": 0.01, "mix": 0.02}
"""Programs per second by workload: some 20 are alive at a time."""

AT = (0, 5, 10, 25, 50)
"""Turns done at which predictions are scored."""

SILENT_S = 30.0
"""Where ends are not said, a silence of so long counts as one until the program is back: the gate's longest."""

ORDERS = 5

OURS, BY_TURNS = "ours", "turns done and kind"
RULES = (OURS, BY_TURNS, "mean of the survivors", "mean", "last value")
"""Ours, ours without what the program did, and three that know only the programs that are over: the mean of what those
had left at this number of turns; the mean turns, or those of the last one, less the turns done."""


class Prediction(NamedTuple):
    """Made when a turn was asked for."""

    program: str
    turns: int
    """Done by then."""
    left: int
    """True turns to come, that one included."""
    said: tuple[float, ...]
    """By each of :data:`RULES`."""


class Rivals:
    """The rules that need no model."""

    def __init__(self) -> None:
        self._turns: list[int] = []

    def observe_over(self, turns: int) -> None:
        self._turns.append(turns)

    def predict(self, turns: int) -> tuple[float, float, float]:
        over = np.array(self._turns or [PRIOR_TURNS])
        left = over[over > turns] - turns
        return (
            float(left.mean()) if len(left) else 1.0,
            max(1.0, float(over.mean()) - turns),
            max(1.0, float(over[-1]) - turns),
        )


def predictions(
    programs: Sequence[Program], rate: float, seed: int, *, ends_said: bool = True, max_pause_s: float
) -> Iterator[Prediction]:
    """Of every program at each of :data:`AT`, in order of time; programs come in an order drawn by ``seed``.

    Args:
        rate: programs per second, a Poisson process.
        ends_said: else an end is a silence of :data:`SILENT_S`, as is every pause of that length.
        max_pause_s: longer pauses are cut to it, as they are in replays.
    """
    rng = np.random.default_rng(seed)
    order = [programs[i] for i in rng.permutation(len(programs))]
    arrivals = np.cumsum(rng.exponential(1.0 / rate, len(order)))
    ours, rivals = RemainingTurns(), Rivals()
    known: dict[str, core.Program] = {}
    # (time, tie-break, program, turn, what): a turn is asked for, it ends, or the program has been silent for long.
    ask, end, silent = "ask", "end", "silent"
    heap = [(float(at_s), i, i, 0, ask) for i, at_s in enumerate(arrivals)]
    heapq.heapify(heap)
    pushed = len(heap)

    def push(at_s: float, index: int, turn: int, what: str) -> None:
        nonlocal pushed
        heapq.heappush(heap, (at_s, pushed, index, turn, what))
        pushed += 1

    while heap:
        at_s, _, index, number, what = heapq.heappop(heap)
        program = order[index]
        turn, last = program.turns[number], number + 1 == len(program.turns)
        state = known.setdefault(program.id, core.Program(program.id, at_s))
        if what == silent:
            ours.observe_over(state.view(), said=False)
        elif what == ask:
            state.begin(str(number), turn.in_tokens, at_s)
            push(at_s + generation_s(program, number), index, number, end)
            if number in AT:
                view = state.view()
                # Of a program that it was not told of, the predictor knows the kind and the turns done.
                said = (ours.predict(view), ours.predict(view._replace(program="")), *rivals.predict(number))
                yield Prediction(program.id, number, len(program.turns) - number, said)
        else:
            tools = () if turn.tool == HUMAN else (turn.tool,)
            state.end(str(number), at_s, core.Answer(turn.in_tokens, turn.out_tokens, tools=tools))
            ours.observe_turn(state.view())
            if not last:
                pause_s = turn.pause_s(max_pause_s)
                push(at_s + pause_s, index, number + 1, ask)
                if not ends_said and pause_s > SILENT_S:
                    push(at_s + SILENT_S, index, number, silent)
                continue
            rivals.observe_over(len(program.turns))
            if ends_said:
                ours.observe_over(state.view(), said=True)
            else:
                push(at_s + SILENT_S, index, number, silent)


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's, equal values sharing their mean rank; 0 where either does not vary, not a number for under three."""
    if len(a) < 3:
        return math.nan
    x, y = _ranks(a), _ranks(b)
    if x.std() == 0 or y.std() == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    _, place, count = np.unique(np.asarray(values, dtype=float), return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def log_error(said: Sequence[float], left: Sequence[float]) -> float:
    """Mean of ``|ln(said / left)|``: 0.69 is a factor of two."""
    return float(np.mean(np.abs(np.log(np.asarray(said) / np.asarray(left)))))


def bias(said: Sequence[float], left: Sequence[float]) -> float:
    """Sum of what was said in the sum of what was left: 1 is right in the mean."""
    return float(np.sum(said) / np.sum(left))


def _at(runs: Iterable[Sequence[Prediction]], rule: int, turns: int | None, measure: Callable) -> float:
    """Mean of a measure over runs."""
    values = []
    for run in runs:
        some = [p for p in run if turns is None or p.turns == turns]
        if some:
            values.append(measure([p.said[rule] for p in some], [p.left for p in some]))
    return float(np.mean(values)) if values else math.nan


def table(runs: Sequence[Sequence[Prediction]], measure: Callable) -> str:
    """Markdown: rules by turns done, the mean over ``runs``; ``all`` ranks them all together."""
    columns = [*AT, None]
    head = ["turns done", *("all" if turns is None else str(turns) for turns in columns)]
    rows = [head, ["---", *("---:" for _ in columns)]]
    rows += [
        [name, *(f"{_at(runs, rule, turns, measure):.2f}" for turns in columns)] for rule, name in enumerate(RULES)
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def report(name: str, runs: Sequence[Sequence[Prediction]]) -> str:
    """All measures of a workload."""
    count = ", ".join(f"{sum(p.turns == turns for p in runs[0])} at {turns}" for turns in AT)
    parts = [f"### {name}: programs {count}"]
    for title, measure in (
        ("Rank correlation", rank_correlation),
        ("Mean absolute log error", log_error),
        ("Predicted in true turns, sums", bias),
    ):
        parts += [f"{title}:", table(runs, measure)]
    halves = [run[len(run) // 2 :] for run in runs]
    later = ", ".join(f"{_at(halves, 0, turns, rank_correlation):.2f} at {turns}" for turns in AT)
    spread = [[_at([run], 0, turns, rank_correlation) for run in runs] for turns in AT]
    ranges = ", ".join(f"{min(s):.2f} to {max(s):.2f} at {turns}" for turns, s in zip(AT, spread, strict=True))
    parts.append(
        f"Rank correlation of {OURS} over {len(runs)} orders: {ranges}; of the second half of the predictions: {later}."
    )
    return "\n\n".join(parts)


def costs_us(programs: Sequence[Program]) -> dict[str, float]:
    """Median microseconds of a prediction, a turn and an end, programs one after another."""
    ours = RemainingTurns()
    taken: dict[str, list[float]] = {"a prediction": [], "a turn": [], "an end": []}

    def timed(what: str, work: Callable, *args) -> None:
        start_s = time.perf_counter()
        work(*args)
        taken[what].append(1e6 * (time.perf_counter() - start_s))

    for program in programs:
        state = core.Program(program.id, 0.0)
        for number, turn in enumerate(program.turns):
            state.begin(str(number), turn.in_tokens, float(number))
            timed("a prediction", ours.predict, state.view())
            tools = () if turn.tool == HUMAN else (turn.tool,)
            state.end(str(number), number + 0.5, core.Answer(turn.in_tokens, turn.out_tokens, tools=tools))
            timed("a turn", ours.observe_turn, state.view())
        timed("an end", ours.observe_over, state.view(), True)
    return {what: float(np.median(values)) for what, values in taken.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m eval.prediction.turns",
        description="Predicts how many turns recorded programs still have, from what ended before, and compares.",
    )
    add = parser.add_argument
    add("--workload", action="append", choices=sorted(RATES), help="repeatable (all)")
    add("--orders", type=int, default=ORDERS, metavar="N", help="random orders of arrival (%(default)s)")
    add("--max-pause", type=float, default=defaults.MAX_PAUSE_S, metavar="S", help="pauses are cut to it (%(default)s)")
    add(
        "--ends-unsaid", action="store_true", help=f"clients never say that they are over: {SILENT_S:g} s of silence do"
    )
    add("--cost", action="store_true", help="only measure the CPU time of predicting and learning")
    add("--out", type=Path, metavar="FILE", help="write the tables there too")
    args = parser.parse_args(argv)
    if args.orders < 1:
        parser.error(f"--orders: {args.orders}; accepted: 1 or more")
    if not args.max_pause >= 0:
        parser.error(f"--max-pause: {args.max_pause}; accepted: seconds, 0 or more")
    parts = []
    for name in args.workload or RATES:
        try:
            programs = load(name)
        except WorkloadError as error:
            parser.error(str(error))
        if args.cost:
            medians = ", ".join(f"{what} {us:.1f} us" for what, us in costs_us(programs).items())
            print(f"{name}: median of {medians}", flush=True)
            continue
        runs = [
            list(predictions(programs, RATES[name], seed, ends_said=not args.ends_unsaid, max_pause_s=args.max_pause))
            for seed in range(args.orders)
        ]
        parts.append(report(name, runs))
        print(parts[-1], end="\n\n", flush=True)
    if args.out is not None and parts:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
