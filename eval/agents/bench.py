"""Compares policies on real agents with real tools: `scripts/bench_agents.sh --help`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from eval import defaults
from eval.agents import cores
from eval.agents.ends import add_turns, differences, ends, exported
from eval.agents.fleet import Fleet, FleetOptions, draw
from eval.agents.options import AgentBenchOptions, parse
from eval.agents.sidecar import Sidecar, SidecarError
from eval.agents.task import TaskError, write_scripts
from eval.agents.tasks import TASKS
from eval.bench import progress
from eval.options import PolicyChoice
from eval.replay.endpoint import Endpoint, EndpointError
from eval.replay.record import Sample
from eval.replay.replay import RunResult
from eval.replay.sampler import sample
from eval.report import tables
from eval.report.figures import Run
from eval.report.writer import write
from eval.server import EmulatedServer, ServerError, measured_arguments
from mars_sglang.clock import SPEED_ENV

_START_TIMEOUT_S = 2 * defaults.START_TIMEOUT_S
"""A server here has half of the cores to start on."""

_SHOWN_PROGRAMS = 10_000
_FIRST = "first-request"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 130 if it was interrupted; 1 if a server or an agent could not run, if a task did not pass, or
    if its final repository was not the same under every policy; else 0."""
    options = parse(argv)
    # Tools run in real time, and so must the engine. A server inherits both.
    os.environ[SPEED_ENV] = "1"
    # A request that meets the closing of its idle connection is lost. SGLang closes after 5 s, which tools may take.
    os.environ.setdefault("SGLANG_TIMEOUT_KEEP_ALIVE", "600")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        with cores.on(options.cores.engine), tempfile.TemporaryDirectory(prefix="mars-agents-") as scratch:
            bench = AgentBench(options, Path(scratch))
            with contextlib.suppress(asyncio.CancelledError):
                asyncio.run(bench.all())
    except (ServerError, EndpointError, SidecarError, TaskError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if bench.interrupted:
        return defaults.INTERRUPTED_STATUS
    return int(bench.died or not bench.alike)


class AgentBench:
    """All policies of one command line, one after the other, with the same tasks at the same times."""

    def __init__(self, options: AgentBenchOptions, scratch: Path) -> None:
        self._options = options
        self._scratch = scratch
        self._plan = draw([TASKS[name] for name in options.tasks], options.programs, options.seed)
        self.runs: list[Run] = []
        self.interrupted = False
        self.died = False
        """Whether a server ended in the middle of its run."""
        self.alike = True
        """Whether every task passed, and ended with the same repository under every policy."""

    async def all(self) -> None:
        """Run every policy; what was made is written and printed however this ends.

        Raises:
            ServerError, EndpointError, SidecarError, TaskError: what was finished before is written first.
        """
        write_scripts({planned.task.name: planned.task for planned in self._plan}, self._scratch / "scripts")
        this, loop = asyncio.current_task(), asyncio.get_running_loop()
        for kind in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(kind, self._interrupt, this)
        try:
            for number, choice in enumerate(self._options.policies, 1):
                await self._policy(choice, f"{number}/{len(self._options.policies)}")
        finally:
            if self.runs:
                self._write()

    def _interrupt(self, this: asyncio.Task) -> None:
        if not self.interrupted:
            self.interrupted = True
            this.cancel()

    async def _policy(self, choice: PolicyChoice, place: str) -> None:
        options = self._options
        requests = self._scratch / f"requests-{choice.label}"
        arguments = measured_arguments(options.profile, 1.0, [
            *choice.server_args, "--max-total-tokens", str(options.kv_tokens),
            "--scripts", str(self._scratch / "scripts"),
            # The first tokens of answers that are not streamed; the level leaves the prompts out.
            "--export-metrics-to-file", "--export-metrics-to-file-dir", str(requests), "--log-requests",
            "--log-requests-level", "0", *options.server_args,
        ])  # fmt: skip
        server = EmulatedServer(arguments, options.out / f"server-{choice.label}.log")
        try:
            print(f"{place} {choice.label}: starting the server", file=sys.stderr)
            await server.start(_START_TIMEOUT_S)
            async with contextlib.AsyncExitStack() as stack:
                sidecar = None
                stream = (_state(server.base_url, 0) or {}).get("stream")
                if stream is not None and options.observe != "none":
                    tools, log = self._scratch / f"tools-{choice.label}", options.out / f"sidecar-{choice.label}.log"
                    sidecar = Sidecar(stream["address"], options.cores.tools, tools, log)
                    await stack.enter_async_context(sidecar)
                _first_request(server.base_url)
                await self._fleet(server.base_url, choice, place, sidecar, requests)
            if death := server.died():
                tqdm.write(f"error: {choice.label}: {death}", file=sys.stderr)
                self.died = True
        finally:
            server.stop()

    async def _fleet(self, url: str, choice: PolicyChoice, place: str, sidecar: Sidecar | None, requests: Path) -> None:
        options = self._options
        reports_to = sidecar.tools.text if sidecar is not None and options.observe == "client" else None
        fleet_options = FleetOptions(
            options.form, options.arrivals, options.seed, options.alive, options.cores.tools, options.time_limit_s,
            reports_to,
        )  # fmt: skip
        # The same folder under every policy: agents put its name into their prompts.
        folder = self._scratch / "programs"
        folder.mkdir()
        samples: list[Sample] = []
        try:
            with tqdm(total=len(self._plan), desc=f"{place} {choice.label}", unit="program") as bar:
                fleet = Fleet(self._plan, url, fleet_options, folder, progress(bar))
                async with Endpoint(url, time.time) as endpoint:
                    facts = await endpoint.facts()
                    await endpoint.flush()
                    looking = asyncio.create_task(
                        sample(endpoint, fleet.since, fleet.counts, defaults.SAMPLE_EVERY_S, samples)
                    )
                    cpu_began = time.process_time()
                    try:
                        await fleet.run()
                    finally:
                        looking.cancel()
                    took_s, cpu_s = fleet.since(), time.process_time() - cpu_began
                    add_turns(fleet, exported(requests))
                    run = Run(
                        label=choice.label, policy=choice.policy, admission=choice.admission,
                        result=RunResult(
                            fleet.records, [seen for seen in samples if seen.at_s > 0], took_s,
                            sum(turn.tool_s for record in fleet.records for turn in record.turns),
                        ),
                        tool_slots=None, wall_s=took_s, replayer_cpu_s=cpu_s, retractions=await endpoint.retractions(),
                    )  # fmt: skip
                    with contextlib.suppress(EndpointError):
                        after = await endpoint.facts()
                        run.emulation_error, run.mars = after.emulation, after.mars
                    run.server = {"model": facts.model, "sglang": facts.version, "kv_tokens": facts.kv_tokens}
                    run.tasks = ends(self._plan, fleet, folder) | {"recognised_by": _recognised(url)}
                    self.runs.append(run)
        finally:
            if options.keep:
                shutil.copytree(folder, options.out / f"programs-{choice.label}", symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)

    def _write(self) -> None:
        options = self._options
        workload = {
            "name": f"real agents ({options.agent})",
            "programs": len(self._plan),
            "turns": sum(len(planned.task.steps) for planned in self._plan),
            "tasks": ", ".join(options.tasks),
            "arrivals": str(options.arrivals),
            "seed": options.seed,
            "observe": options.observe,
            "cores": str(options.cores),
            "kv_tokens": options.kv_tokens,
            "alive": options.alive,
            "time_limit_s": options.time_limit_s,
            "speed": 1.0,
        }
        summary = write(options.out, self.runs, workload, options.profile)
        print("\n" + tables.plain(tables.main_table(summary["runs"])))
        for line in tables.remarks(summary["runs"]):
            print(f"note: {line}")
        for run in self.runs:
            if (late_s := run.tasks["late_s"]) > 1:
                print(f"note: {run.label}: a program waited {late_s:.1f} s for its agent to start; raise --alive")
        lines = differences({run.label: run.tasks for run in self.runs})
        self.alike = not lines
        for line in lines:
            print(f"error: {line}", file=sys.stderr)
        if self.alike:
            labels = " and ".join(run.label for run in self.runs)
            print(f"all {len(self._plan)} tasks pass, with the same final repositories, under {labels}")
        print(f"\nwritten: {options.out / 'report.md'}")


def _first_request(url: str) -> None:
    """A server prepares chat templates and tool calls at its first request: none of the programs is to pay for that."""
    tool = {"type": "function", "function": {"name": "none", "parameters": {"type": "object", "properties": {}}}}
    body = {"model": "m", "messages": [{"role": "user", "content": "-"}], "max_tokens": 1, "tools": [tool]}
    # Nobody's first turn, as far as admission is concerned.
    body |= {"program_id": _FIRST, "is_last_step": True}
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    urllib.request.urlopen(request, timeout=60).close()


def _state(url: str, programs: int) -> dict[str, Any] | None:
    """What ``GET /mars/state`` says; None where nothing of ours is on."""
    try:
        with urllib.request.urlopen(f"{url}/mars/state?programs={programs}", timeout=30) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return None


def _recognised(url: str) -> dict[str, int]:
    """How many programs the server knows, by what it knows them by."""
    programs = (_state(url, _SHOWN_PROGRAMS) or {}).get("programs", ())
    return dict(Counter(program["recognised_by"] for program in programs if program["program"] != _FIRST))


if __name__ == "__main__":
    sys.exit(main())
