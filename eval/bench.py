"""Compares policies on one workload: `python -m eval.bench --help`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import Callable, Sequence

from tqdm import tqdm

from eval import defaults
from eval.options import BenchOptions, PolicyChoice, parse
from eval.replay.endpoint import Endpoint, EndpointError, ServerFacts
from eval.replay.record import ProgramRecord
from eval.replay.replay import INTERRUPTED, ReplayOptions
from eval.replay.timing import ServerClock
from eval.report import tables
from eval.report.figures import Run
from eval.report.writer import write
from eval.served import replay_served
from eval.server import EmulatedServer, ServerError, measured_arguments
from eval.workload import Program, WorkloadError, draw, load
from mars_sglang.clock import SPEED_ENV


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark; its exit status: 0, 1 if a server failed, 130 if it was interrupted."""
    options = parse(argv)
    try:
        programs = [program.cut(options.max_turns) for program in load(options.workload, options.seed)]
        # Now rather than after an hour of replay.
        options.out.mkdir(parents=True, exist_ok=True)
        bench = Bench(options, programs)
        interrupted = asyncio.run(bench.all())
    except (WorkloadError, ServerError, EndpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return defaults.INTERRUPTED_STATUS if interrupted else int(bench.died)


class Bench:
    """All policies of one command line, one after the other, with the same programs and arrivals."""

    def __init__(self, options: BenchOptions, programs: list[Program]) -> None:
        self._options = options
        self._programs = programs
        self._picked: tuple[Program, ...] | None = None
        self._left_out: dict[str, int] = {}
        self._stop = asyncio.Event()
        self.runs: list[Run] = []
        self.died = False
        """Whether a server ended in the middle of its run."""

    async def all(self) -> bool:
        """Runs every policy; whether Ctrl-C ended that early. What was made is written and printed either way.

        Raises:
            ServerError, EndpointError, WorkloadError: what was finished before is written first.
        """
        loop = asyncio.get_running_loop()
        for kind in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(kind, self._stop.set)
        try:
            for number, choice in enumerate(self._options.policies, 1):
                if self._stop.is_set():
                    break
                await self._policy(choice, f"{number}/{len(self._options.policies)}")
        finally:
            if self.runs:
                self._write()
        return self._stop.is_set()

    async def _policy(self, choice: PolicyChoice, place: str) -> None:
        options = self._options
        if options.base_url is not None:
            self.runs.append(await self._replay(options.base_url, choice, place, None))
            return
        _set_speed(options.speed)
        arguments = measured_arguments(options.profile, options.speed, [*choice.server_args, *options.server_args])
        server = EmulatedServer(arguments, options.out / f"server-{choice.label}.log")
        try:
            starting = asyncio.create_task(server.start())
            starting_up = f"{place} {choice.label}: starting the server"
            with tqdm(total=0, bar_format="{desc} [{elapsed}]", desc=starting_up, disable=None) as bar:
                await self._either(starting, bar)
            if not self._stop.is_set():
                self.runs.append(await self._replay(server.base_url, choice, place, server))
        finally:
            server.stop()

    async def _either(self, starting: asyncio.Task[None], bar: tqdm) -> None:
        stopping = asyncio.create_task(self._stop.wait())
        try:
            while not starting.done() and not self._stop.is_set():
                await asyncio.wait({starting, stopping}, timeout=1, return_when=asyncio.FIRST_COMPLETED)
                bar.refresh()
        finally:
            stopping.cancel()
            if not starting.done():
                starting.cancel()
            await asyncio.gather(starting, stopping, return_exceptions=True)
        if not starting.cancelled():
            starting.result()

    async def _replay(self, url: str, choice: PolicyChoice, place: str, server: EmulatedServer | None) -> Run:
        options, clock = self._options, ServerClock()
        async with Endpoint(url, clock.now) as endpoint:
            facts = await endpoint.facts()
            if server is None:
                _set_speed(options.speed or (facts.emulation or {}).get("speed") or 1.0)
            programs, left_out = self._pick(facts)
            label = choice.label if choice.named else facts.policy or choice.policy
            replay_options = ReplayOptions(
                options.arrivals, options.seed, options.tool_slots, options.max_pause_s, run_id=uuid.uuid4().hex[:8]
            )
            with tqdm(total=len(programs), desc=f"{place} {choice.label}", unit="program", smoothing=0.1) as bar:
                run = await replay_served(
                    endpoint, facts, programs, replay_options, clock,
                    label=label, policy=choice.policy if choice.named else label, admission=choice.admission,
                    left_out=left_out, ended=progress(bar), stop=self._stop,
                )  # fmt: skip
            if server is not None and (death := server.died()):
                # Its programs have failed and say so; the other policies still get their run.
                tqdm.write(f"error: {choice.label}: {death}", file=sys.stderr)
                self.died = True
            return run

    def _pick(self, facts: ServerFacts) -> tuple[list[Program], dict[str, int]]:
        """The programs of this run: the same for every policy, less those that a later server could not hold."""
        limit = facts.largest_context

        def refuse(program: Program) -> str | None:
            return "too_long" if limit is not None and program.largest_context > limit else None

        if self._picked is None:
            drawn = draw(self._programs, self._options.programs, self._options.seed, refuse)
            self._picked, self._left_out = drawn.programs, drawn.left_out
            return list(drawn.programs), drawn.left_out
        programs = [program for program in self._picked if refuse(program) is None]
        short = len(self._picked) - len(programs)
        return programs, self._left_out | ({"too_long": self._left_out.get("too_long", 0) + short} if short else {})

    def _write(self) -> None:
        options = self._options
        workload = {
            "name": options.workload,
            "programs": len(self._picked or ()),
            "turns": sum(len(program.turns) for program in self._picked or ()),
            "arrivals": str(options.arrivals),
            "tool_slots": options.tool_slots,
            "max_pause_s": options.max_pause_s,
            "max_turns": options.max_turns,
            "seed": options.seed,
            "speed": float(os.environ.get(SPEED_ENV, "1")),
        }
        summary = write(options.out, self.runs, workload, None if options.base_url else options.profile)
        print("\n" + tables.plain(tables.main_table(summary["runs"])))
        for line in tables.remarks(summary["runs"]):
            print(f"note: {line}")
        print(f"\nwritten: {options.out / 'report.md'}")


def progress(bar: tqdm) -> Callable[[ProgramRecord], None]:
    """Moves the bar at the end of each program, and shows how many failed."""
    failed = 0

    def ended(record: ProgramRecord) -> None:
        nonlocal failed
        failed += record.failure not in (None, INTERRUPTED)
        if failed:
            bar.set_postfix(failed=failed, refresh=False)
        bar.update()

    return ended


def _set_speed(speed: float) -> None:
    # The project's one clock reads it; a server that is started inherits it.
    os.environ[SPEED_ENV] = f"{speed:g}"


if __name__ == "__main__":
    sys.exit(main())
