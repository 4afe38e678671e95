"""The command line of the benchmark: every option, checked before anything is started."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval import defaults
from eval.replay.arrivals import Arrivals
from eval.workload.source import ACCEPTED
from mars_sglang.config import ADMISSION_OFF
from mars_sglang.core.policy import admission_policy, admission_policy_names


@dataclass(frozen=True)
class PolicyChoice:
    """One column of the report: a turn policy and, unless left to the server, an admission policy."""

    policy: str
    admission: str | None = None
    named: bool = True
    """False where the server was started by others and says itself what it runs."""

    @property
    def label(self) -> str:
        """As a user writes it; also part of file names."""
        return self.policy if self.admission is None else f"{self.policy}+{self.admission}"

    @property
    def server_args(self) -> list[str]:
        """What to start the server with."""
        args = ["--scheduler-policy", self.policy]
        return args if self.admission is None else [*args, "--mars-admission", self.admission]


@dataclass(frozen=True)
class BenchOptions:
    """A checked command line. Times in emulated seconds."""

    policies: tuple[PolicyChoice, ...]
    programs: int
    workload: str
    arrivals: Arrivals
    tool_slots: int
    max_pause_s: float
    max_turns: int | None
    profile: str
    speed: float | None
    seed: int
    out: Path
    base_url: str | None
    server_args: tuple[str, ...]


def parse(argv: Sequence[str] | None = None) -> BenchOptions:
    """Options of ``argv``; exits with a message on what cannot be (argparse's way)."""
    parser = _parser()
    args = parser.parse_args(joined_words(sys.argv[1:] if argv is None else argv))
    if args.base_url is not None and args.server_args:
        parser.error("--server-args: with --base-url the server already runs; accepted: one of the two")
    try:
        policies = policy_choices(args.policies or defaults.POLICIES, args.admission)
        server_args = tuple(shlex.split(args.server_args))
        arrivals = arrivals_of(args)
    except ValueError as error:
        parser.error(str(error))
    if args.base_url is not None:
        if args.policies and len(policies) > 1:
            parser.error(f"--policies: {args.policies!r}; with --base-url one run is made: accepted: one name, or none")
        policies = policies if args.policies else (PolicyChoice("server", None, named=False),)
    return BenchOptions(
        policies=policies,
        programs=args.programs,
        workload=args.workload,
        arrivals=arrivals,
        tool_slots=args.tool_slots,
        max_pause_s=args.max_pause,
        max_turns=args.max_turns or None,
        profile=args.profile,
        speed=args.speed if args.speed is not None or args.base_url else defaults.SPEED,
        seed=args.seed,
        out=args.out,
        base_url=args.base_url,
        server_args=server_args,
    )


def joined_words(argv: Sequence[str]) -> list[str]:
    """``--server-args --flag`` as ``--server-args=--flag``: argparse takes a value with a dash for an option."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] == "--server-args":
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def policy_choices(text: str, admission: str | None) -> tuple[PolicyChoice, ...]:
    """What ``--policies`` asks for. ``admission`` is for those that name none.

    Raises:
        ValueError: no name of a policy, or one that is there twice.
    """
    choices: list[PolicyChoice] = []
    for name in text.split(","):
        policy, plus, own = name.strip().partition("+")
        if not policy or (plus and not _is_admission(own)):
            raise ValueError(
                f"--policies: {name.strip()!r}; accepted: names of turn policies with commas between them, "
                f"each with +{' or +'.join(_admissions())} after it for its admission policy"
            )
        if policy.startswith("-") or "/" in policy:
            raise ValueError(f"--policies: {policy!r} is no name of a policy")
        choice = PolicyChoice(policy, own if plus else admission)
        if choice in choices:
            raise ValueError(f"--policies: {choice.label!r} is there twice")
        choices.append(choice)
    return tuple(choices)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.bench",
        description="Replays LLM agents against SGLang under several policies and compares them. "
        "All times are emulated seconds; without --base-url a server with emulated GPU timing is started per policy.",
        allow_abbrev=False,
    )
    _add_workload(parser)
    server = parser.add_argument_group("servers and policies")
    add = server.add_argument
    add(
        "--policies",
        metavar="A,B",
        help="turn policies to compare; fcfs+mars is fcfs with the mars admission policy "
        f"({defaults.POLICIES}; with --base-url what the server says)",
    )
    add("--admission", type=_admission, metavar="A", help=f"where --policies names none: {', '.join(_admissions())} "
        "(default: left to the server)")  # fmt: skip
    add("--profile", default=defaults.PROFILE, metavar="NAME", help="model and GPU to emulate (%(default)s)")
    speed_help = f"emulated seconds per second ({defaults.SPEED:g}; with --base-url what the server says, else 1)"
    add("--speed", type=number(above=0), metavar="X", help=speed_help)
    add("--server-args", metavar="ARGS", default="", help="more arguments for the servers, as one string")
    add("--base-url", metavar="URL", help="a server that already runs: one run, nothing started or stopped")
    parser.add_argument(
        "--out", type=Path, default=Path(defaults.OUT), metavar="DIR", help="where results go (%(default)s)"
    )
    return parser


def _add_workload(parser: argparse.ArgumentParser) -> None:
    workload = parser.add_argument_group("workload")
    add = workload.add_argument
    add("--workload", default=defaults.WORKLOAD, metavar="NAME", help=f"{ACCEPTED} (%(default)s)")
    add("--programs", type=whole(1), default=defaults.PROGRAMS, metavar="N", help="how many to replay (%(default)s)")
    add_arrivals(workload)
    add("--tool-slots", type=whole(1), default=defaults.TOOL_SLOTS, metavar="N", help="tools at a time (%(default)s)")
    pause_help = "longer pauses are cut to this, in seconds (%(default)s)"
    add("--max-pause", type=number(least=0), default=defaults.MAX_PAUSE_S, metavar="S", help=pause_help)
    add(
        "--max-turns", type=whole(0), default=defaults.MAX_TURNS, metavar="N",
        help="programs end after so many turns; 0: never (%(default)s)",
    )  # fmt: skip
    add("--seed", type=whole(0), default=defaults.SEED, metavar="N", help="of programs, arrivals, texts (%(default)s)")


def add_arrivals(group: argparse._ArgumentGroup) -> None:
    """``--rate``, ``--concurrency`` and ``--burst``, for :func:`arrivals_of`."""
    arrival = group.add_mutually_exclusive_group()
    rate_help = f"Poisson arrivals, programs per second ({defaults.RATE})"
    arrival.add_argument("--rate", type=number(above=0), metavar="R", help=rate_help)
    arrival.add_argument("--concurrency", type=whole(1), metavar="C", help="instead: so many programs at a time")
    arrival.add_argument("--burst", action="store_true", help="instead: all programs at once")


def arrivals_of(args: argparse.Namespace) -> Arrivals:
    """What they say; the default rate where they say nothing. Raises ValueError."""
    unsaid = args.rate is None and args.concurrency is None and not args.burst
    return Arrivals(defaults.RATE if unsaid else args.rate, args.concurrency)


def _admissions() -> list[str]:
    return [ADMISSION_OFF, *admission_policy_names()]


def _is_admission(text: str) -> bool:
    try:
        return text == ADMISSION_OFF or bool(admission_policy(text))
    except ValueError:
        return False


def _admission(text: str) -> str:
    if not _is_admission(text):
        raise argparse.ArgumentTypeError(f"{text!r}; accepted: {', '.join(_admissions())}")
    return text


def whole(least: int) -> Callable[[str], int]:
    """An argument's type: a whole number, ``least`` or more."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r}; accepted: a whole number, {least} or more")
        return int(text)

    return read


def number(above: float | None = None, least: float | None = None) -> Callable[[str], float]:
    """An argument's type: a finite number, above one or at least another."""
    accepted = f"a number above {above:g}" if above is not None else f"a number, {least:g} or more"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        good = value > above if above is not None else value >= least
        if not good or value == float("inf"):
            raise argparse.ArgumentTypeError(f"{text!r}; accepted: {accepted}")
        return value

    return read
