"""Command line: measures what the project's own code costs, prints tables, draws a picture per curve."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from eval.cost import control, gate, memory, policies
from eval.cost.curve import Curve
from eval.cost.memory import ControlFailed
from eval.cost.report import markdown
from eval.cost.timing import Effort

#: Runs of a control process, beside the rounds of all else.
RUNS = 2
#: Of ``--quick``: to see that it works, and the order of magnitude.
QUICK = Effort(rounds=3, round_s=0.004)
QUICK_RUNS, QUICK_QUEUE, QUICK_PROGRAMS = 1, 32, 1_000


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 1 where the control process failed."""
    options = _parser().parse_args(argv)
    if options.max_programs < 1:
        _parser().error(f"--max-programs: {options.max_programs}; accepted: 1 or more")
    effort = QUICK if options.quick else Effort()
    curves: list[Curve] = []
    try:
        for name in options.part or PARTS:
            began = time.monotonic()
            curves += PARTS[name](options, effort)
            print(f"cost: {name} measured in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    except ControlFailed as error:
        print(f"cost: error: {error}", file=sys.stderr)
        return 1
    print(markdown(curves, effort.rounds))
    if options.out is not None:
        _write(options.out, curves, effort.rounds)
    return 0


def _passes(options: argparse.Namespace, effort: Effort) -> list[Curve]:
    # SGLang takes ten seconds to import, and the other parts do without it.
    from eval.cost.passes import SIZES, pass_curve
    from mars_sglang.emulation.in_process import prepare

    prepare()
    return [pass_curve(_queue(SIZES, options), effort, options.seed)]


def _evictions(options: argparse.Namespace, effort: Effort) -> list[Curve]:
    from eval.cost.evictions import SIZES, eviction_curve
    from mars_sglang.emulation.in_process import prepare

    prepare()
    return [eviction_curve(_queue(SIZES, options), effort)]


def _policies(options: argparse.Namespace, effort: Effort) -> list[Curve]:
    sizes = _programs(policies.SIZES, options)
    turns = policies.turn_policy_curves(sizes, effort, options.seed)
    return [*turns, policies.admission_curve(sizes, effort, options.seed)]


def _gate(options: argparse.Namespace, effort: Effort) -> list[Curve]:
    (known,) = _programs([gate.KNOWN], options)
    return gate.gate_curves(_programs(gate.SIZES, options), _programs(gate.WAITING_SIZES, options), effort, known)


def _control(options: argparse.Namespace, effort: Effort) -> list[Curve]:
    runs = QUICK_RUNS if options.quick else RUNS
    return [
        control.event_curve(_programs(control.SIZES, options), effort),
        control.look_curve(_programs(control.LOOK_SIZES, options), effort),
        *memory.memory_curves(_programs(memory.SIZES, options), runs),
    ]


PARTS: dict[str, Callable[[argparse.Namespace, Effort], list[Curve]]] = {
    "passes": _passes,
    "policies": _policies,
    "gate": _gate,
    "evictions": _evictions,
    "control": _control,
}


def _queue(sizes: Sequence[int], options: argparse.Namespace) -> list[int]:
    """Sizes of a queue or a cache."""
    most = min(max(sizes), options.max_programs, QUICK_QUEUE if options.quick else max(sizes))
    return _up_to(sizes, most)


def _programs(sizes: Sequence[int], options: argparse.Namespace) -> list[int]:
    """Sizes of a table of programs."""
    return _up_to(sizes, min(options.max_programs, QUICK_PROGRAMS if options.quick else max(sizes)))


def _up_to(sizes: Sequence[int], most: int) -> list[int]:
    return sorted({min(size, most) for size in sizes})


def _write(out: Path, curves: Sequence[Curve], rounds: int) -> None:
    # Only who wants the pictures needs matplotlib.
    from eval.cost.plot import draw

    out.mkdir(parents=True, exist_ok=True)
    for curve in curves:
        draw(curve, out / f"{curve.name}.png")
    (out / "cost.json").write_text(json.dumps({c.name: c.row() for c in curves}, indent=1) + "\n", encoding="utf-8")
    (out / "cost.md").write_text(markdown(curves, rounds, pictures=""), encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m eval.cost", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", help="write cost.md, cost.json and a picture per curve there")
    add("--quick", action="store_true", help="small sizes and few rounds, half a minute of CPU time")
    add("--max-programs", type=int, default=100_000, metavar="N", help="no size is larger (%(default)s)")
    add("--part", action="append", choices=tuple(PARTS), help="measure this alone; repeatable (all)")
    add("--seed", type=int, default=0, help="of the drawn lengths and orders (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
