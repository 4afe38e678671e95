"""``mars-sglang bench``: runs experiments, reports on them, compares two results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from eval import defaults

_NEEDED = ("aiohttp", "matplotlib", "tqdm")
"""What the ``eval`` extra brings."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0; 1 if something could not be run or read; 2 for a bad command line; 130 after Ctrl-C."""
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        print(
            f"mars-sglang bench: error: {', '.join(missing)} not installed; bench needs the eval extra: "
            "pip install 'mars-sglang[eval]'",
            file=sys.stderr,
        )
        return 2
    args = _parser().parse_args(argv)
    # Imported here: without the extra these cannot be.
    from eval.experiment.checks import ExperimentError
    from eval.experiment.store import StoreError

    try:
        return args.action(args)
    except (ExperimentError, StoreError, OSError) as error:
        print(f"mars-sglang bench: error: {error}", file=sys.stderr)
        return 1


def _run(args: argparse.Namespace) -> int:
    from eval.experiment.experiment import load_experiment
    from eval.experiment.runner import planned, run

    experiment = load_experiment(args.experiment)
    if not planned(experiment, args.only):
        example = experiment.cells[0].label
        print(f"mars-sglang bench: error: --only {args.only!r}: in no label; one is {example!r}", file=sys.stderr)
        return 1
    if args.list:
        print("\n".join(work.label for work in planned(experiment, args.only)))
        return 0
    tally = run(experiment, args.out, only=args.only, jobs=args.jobs, say=lambda line: print(line, flush=True))
    print(f"{tally.done} run, {tally.there} there before, {tally.failed} failed; in {args.out}")
    return defaults.INTERRUPTED_STATUS if tally.interrupted else int(tally.failed > 0)


def _report(args: argparse.Namespace) -> int:
    from eval.experiment.report import write_report
    from eval.experiment.store import Store
    from eval.experiment.study import Study

    try:
        study = Study(Store(args.results).read(), args.base)
    except ValueError as error:
        print(f"mars-sglang bench: error: {error}", file=sys.stderr)
        return 1
    if not study.cells:
        print(f"mars-sglang bench: error: {args.results}: no finished cell; run bench run first", file=sys.stderr)
        return 1
    print(f"written: {write_report(study, args.out or args.results / 'report')}")
    return 0


def _compare(args: argparse.Namespace) -> int:
    from eval.experiment.compare import compare
    from eval.experiment.store import Store
    from eval.experiment.study import Study

    print(compare(*(Study(Store(folder).read()) for folder in (args.a, args.b))), end="")
    return 0


def _parser() -> argparse.ArgumentParser:
    from eval.experiments import shipped_names

    parser = argparse.ArgumentParser(prog="mars-sglang bench", description="Experiments as data. docs/experiments.md")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run what is missing of an experiment", allow_abbrev=False)
    run.add_argument("experiment", help=f"a .toml file, or one of: {', '.join(shipped_names())}")
    run.add_argument("--out", type=Path, required=True, help="directory of the results; finished cells there are kept")
    run.add_argument("--only", default="", metavar="TEXT", help="cells whose label contains it (--list shows labels)")
    run.add_argument("--jobs", type=_jobs, metavar="N", help="processes for simulated cells (default: one per core)")
    run.add_argument("--list", action="store_true", help="print the labels and run nothing")
    run.set_defaults(action=_run)

    report = commands.add_parser("report", help="Markdown and plots of a directory of results", allow_abbrev=False)
    report.add_argument("results", type=Path, metavar="DIR")
    report.add_argument("--out", type=Path, help="where to write (default: DIR/report)")
    report.add_argument("--base", metavar="SETUP", help="what ratios are to (default: as the experiment says)")
    report.set_defaults(action=_report)

    compare = commands.add_parser("compare", help="two directories of results, cell by cell", allow_abbrev=False)
    compare.add_argument("a", type=Path, metavar="DIR_A")
    compare.add_argument("b", type=Path, metavar="DIR_B")
    compare.set_defaults(action=_compare)
    return parser


def _jobs(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; accepted: a whole number, 1 or more")
    return int(text)
