"""The command line of the benchmark of agents: every option, checked before anything is started."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval import defaults
from eval.agents.cores import Cores
from eval.agents.session import AGENTS
from eval.agents.tasks import TASKS
from eval.options import PolicyChoice, add_arrivals, arrivals_of, joined_words, number, policy_choices, whole
from eval.replay.arrivals import Arrivals

FORMS = {"mini-swe-agent": "mini", "mini-swe-agent-textbased": "mini_textbased", "openhands": "openhands"}
"""Keys of :data:`eval.agents.session.AGENTS` by what a user calls the agent."""

OBSERVERS = ("sidecar", "client", "none")

KV_TOKENS = {"mini": 40_000, "mini_textbased": 40_000, "openhands": 80_000}
"""Size of the KV pool by form: it holds any one program to its end, and a third of twelve or so."""

POLICIES, PROGRAMS, OUT = "fcfs,mars", 12, "bench-agents-out"

ALIVE = 16
"""Agents at a time. One of OpenHands takes 290 MB."""

TIME_LIMIT_S = 1800.0


@dataclass(frozen=True)
class AgentBenchOptions:
    """A checked command line. Times in real seconds, which are emulated ones too."""

    agent: str
    policies: tuple[PolicyChoice, ...]
    programs: int
    tasks: tuple[str, ...]
    """Names, in the order in which they stand in TASKS."""
    arrivals: Arrivals
    seed: int
    observe: str
    cores: Cores
    alive: int
    time_limit_s: float
    profile: str
    kv_tokens: int
    server_args: tuple[str, ...]
    keep: bool
    out: Path

    @property
    def form(self) -> str:
        """Key of :data:`eval.agents.session.AGENTS`."""
        return FORMS[self.agent]


def parse(argv: Sequence[str] | None = None) -> AgentBenchOptions:
    """Options of ``argv``; exits with a message on what cannot be (argparse's way)."""
    parser = _parser()
    args = parser.parse_args(joined_words(sys.argv[1:] if argv is None else argv))
    form = FORMS[args.agent]
    if missing := AGENTS[form].missing():
        parser.error(missing)
    try:
        policies = policy_choices(args.policies, None)
        server_args = tuple(shlex.split(args.server_args))
        cores = Cores.split(args.engine_cores, args.tool_cores)
        tasks = _tasks(args.tasks)
        arrivals = arrivals_of(args)
    except ValueError as error:
        parser.error(str(error))
    return AgentBenchOptions(
        agent=args.agent,
        policies=policies,
        programs=args.programs,
        tasks=tasks,
        arrivals=arrivals,
        seed=args.seed,
        observe=args.observe,
        cores=cores,
        alive=args.alive,
        time_limit_s=args.time_limit,
        profile=args.profile,
        kv_tokens=args.kv_tokens or KV_TOKENS[form],
        server_args=server_args,
        keep=args.keep,
        out=args.out,
    )


def _tasks(text: str | None) -> tuple[str, ...]:
    if text is None:
        return tuple(TASKS)
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in TASKS:
            raise ValueError(f"--tasks: {name!r} is unknown; known: {', '.join(TASKS)}")
    return tuple(name for name in TASKS if name in names)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench_agents.sh",
        description="Runs real agents with real tools, many at once, against SGLang under several policies, and "
        "compares them. The GPU's timing is emulated at its own speed, and what the model answers is dictated.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--agent", choices=FORMS, default="mini-swe-agent", help="(%(default)s)")
    add("--policies", metavar="A,B", default=POLICIES, help="turn policies to compare; fcfs+mars is fcfs with the mars "
        "admission policy (%(default)s)")  # fmt: skip
    add("--observe", choices=OBSERVERS, default="sidecar", help="who tells the server of tools: a sidecar that sees "
        "the tools' cores; the agents' tool calls, too, by the client library; or nobody (%(default)s)")  # fmt: skip
    add("--out", type=Path, default=Path(OUT), metavar="DIR", help="where results go (%(default)s)")
    workload = parser.add_argument_group("workload")
    add = workload.add_argument
    add("--programs", type=whole(1), default=PROGRAMS, metavar="N", help="how many to run (%(default)s)")
    add("--tasks", metavar="A,B", help=f"to draw from (all: {', '.join(TASKS)})")
    add_arrivals(workload)
    add("--seed", type=whole(0), default=defaults.SEED, metavar="N", help="of tasks and arrivals (%(default)s)")
    add("--time-limit", type=number(above=0), default=TIME_LIMIT_S, metavar="S",
        help="seconds after which a program is ended and counts as failed (%(default)g)")  # fmt: skip
    add("--keep", action="store_true", help="leave the programs' folders in DIR, by policy")
    machine = parser.add_argument_group("machine")
    add = machine.add_argument
    add("--engine-cores", metavar="LIST", help="of the server, such as 0-3,8 (half of all, or what the tools leave)")
    add("--tool-cores", metavar="LIST", help="of the agents and their tools (half of all, or what the engine leaves)")
    add("--alive", type=whole(1), default=ALIVE, metavar="N", help="agents started at a time (%(default)s)")
    add("--profile", default=defaults.PROFILE, metavar="NAME", help="model and GPU to emulate (%(default)s)")
    kv_help = f"of the GPU's KV pool ({KV_TOKENS['mini']}; openhands: {KV_TOKENS['openhands']})"
    add("--kv-tokens", type=whole(1), metavar="N", help=kv_help)
    add("--server-args", metavar="ARGS", default="", help="more arguments for the servers, as one string")
    return parser
