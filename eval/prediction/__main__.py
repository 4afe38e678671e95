"""Command line: scores the predictor on workloads, prints tables, draws a picture."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from eval.prediction.order import steps
from eval.prediction.report import Study, dormancy, markdown
from eval.prediction.score import Scores, score
from eval.workload import Program, WorkloadError, load
from mars_sglang.core.cost_model import CostModel
from mars_sglang.core.prediction import PausePredictor
from mars_sglang.emulation.profiles import load_profile

WORKLOADS = ("swebench", "claude-code")
RATE = 0.2
PROFILE = "l40s-llama-3.1-8b"
_ALSO = "generated:300"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m eval.prediction",
        description="Predicts every pause of recorded programs from the pauses that ended before it, and compares.",
    )
    add = parser.add_argument
    add("--workload", action="append", metavar="NAME", help=f"repeatable ({', '.join(WORKLOADS)})")
    add("--rate", type=float, default=RATE, help="programs that arrive per second (%(default)s)")
    add("--profile", default=PROFILE, metavar="NAME", help="model and GPU that price memory and prefill (%(default)s)")
    add("--seed", type=int, default=0, help="of the arrivals (%(default)s)")
    add("--out", type=Path, metavar="FOLDER", help="write prediction.md and prediction.png there")
    add("--robust", action="store_true", help="also halves of the programs, slower arrivals, a generated workload")
    args = parser.parse_args(argv)
    if not args.rate > 0:
        parser.error(f"--rate: {args.rate}; accepted: above 0")
    try:
        cost = CostModel(load_profile(args.profile))
        workloads = {name: load(name) for name in args.workload or WORKLOADS}
        studies = [
            Study(name, len(programs), _score(programs, args.rate, args.seed, cost))
            for name, programs in workloads.items()
        ]
        variants = list(_variants(workloads, args.rate, args.seed, cost)) if args.robust else []
        silences = [
            (name, dormancy(_score(programs, args.rate, args.seed, cost, ends_said=False)))
            for name, programs in workloads.items()
        ]
    except (WorkloadError, ValueError) as error:
        parser.error(str(error))
    text = markdown(studies, variants, silences)
    print(text)
    if args.out is not None:
        # Only who wants the picture needs matplotlib.
        from eval.prediction.plot import draw

        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "prediction.md").write_text(text + "\n", encoding="utf-8")
        draw(studies, args.out / "prediction.png")


def _score(programs: Sequence[Program], rate: float, seed: int, cost: CostModel, *, ends_said: bool = True) -> Scores:
    return score(steps(programs, rate, seed, ends_said=ends_said), PausePredictor(), cost)


def _variants(workloads: dict[str, list[Program]], rate: float, seed: int, cost: CostModel):
    """The same predictor where it was not looked at while it was built."""
    for name, programs in workloads.items():
        half = len(programs) // 2
        for label, some, at_rate, at_seed in (
            ("first half of the programs", programs[:half], rate, seed),
            ("second half", programs[half:], rate, seed),
            ("backwards", programs[::-1], rate, seed),
            ("a tenth of the rate", programs, rate / 10, seed),
            ("another seed", programs, rate, seed + 1),
        ):
            yield Study(f"{name}, {label}", len(some), _score(some, at_rate, at_seed, cost))
    yield Study(_ALSO, len(programs := load(_ALSO)), _score(programs, rate, seed, cost))


if __name__ == "__main__":
    main()
