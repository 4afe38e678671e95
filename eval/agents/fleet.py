"""Many agents at once against one server, each with its task at its time."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.agents.session import Session
from eval.agents.task import Task, TaskError
from eval.replay.arrivals import Arrivals
from eval.replay.record import ProgramRecord
from eval.replay.replay import INTERRUPTED
from eval.replay.sampler import Counts

#: How an agent that came to its own end says so.
_ENDED_WELL = ("Submitted", "finished")


@dataclass(frozen=True)
class Planned:
    """A program of the benchmark, the same under every policy."""

    id: str
    task: Task


def draw(tasks: Sequence[Task], count: int, seed: int) -> list[Planned]:
    """``count`` programs; no task comes again before all of them came."""
    rng = np.random.default_rng((seed, 3))
    order: list[int] = []
    while len(order) < count:
        order += rng.permutation(len(tasks)).tolist()
    return [Planned(f"{number:03d}-{tasks[index].name}", tasks[index]) for number, index in enumerate(order[:count])]


@dataclass(frozen=True)
class FleetOptions:
    """How agents run. Times in seconds."""

    form: str
    arrivals: Arrivals
    seed: int
    alive: int
    """Agents started at a time."""
    cores: frozenset[int]
    time_limit_s: float
    reports_to: str | None = None
    """A sidecar's address, where agents report their tool calls."""


class Fleet:
    """Runs ``plan`` once. The folder of each program is ``folder/ID/repository`` and stays.

    Agents are started ahead of their time, since importing one takes seconds of a core: the run begins when the
    first ``alive`` of them wait for their tasks.
    """

    def __init__(
        self, plan: Sequence[Planned], url: str, options: FleetOptions, folder: Path,
        ended: Callable[[ProgramRecord], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._plan, self._url, self._options, self._folder, self._ended = plan, url, options, folder, ended
        self.records = [
            ProgramRecord(planned.id, len(planned.task.steps), at)
            for planned, at in zip(plan, options.arrivals.times(len(plan), options.seed), strict=True)
        ]
        self.turns: dict[str, list[dict]] = {}
        """By program, what its driver told of its turns."""
        self.reports: dict[str, dict] = {}
        """By program, what its driver said at its end, if it did."""
        self.late_s: dict[str, float] = {}
        """By program, for how long it waited for its agent to be started."""
        self.began_s = 0.0
        """When the first program could arrive, in seconds of the epoch."""
        self._pool = ThreadPoolExecutor(2 * options.alive)
        self._alive = asyncio.Semaphore(options.alive)
        self._starting = asyncio.Semaphore(len(options.cores))
        self._first_ready = asyncio.Semaphore(0)
        self._go = asyncio.Event()
        self._at_work: dict[str, Session] = {}

    async def run(self) -> None:
        """To the end of every program.

        Raises:
            TaskError: an agent or a task that cannot run here at all.
        """
        places = asyncio.Semaphore(self._options.arrivals.concurrency or len(self._plan))
        try:
            async with asyncio.TaskGroup() as group:
                for planned, record in zip(self._plan, self.records, strict=True):
                    group.create_task(self._program(planned, record, places))
                group.create_task(self._begin())
        except BaseExceptionGroup as failures:
            # One agent that cannot be started is the end of the run; what ended with it says no more.
            raise failures.exceptions[0] from None
        finally:
            self._pool.shutdown()

    def since(self) -> float:
        """Seconds since the run began; 0 before."""
        return time.time() - self.began_s if self.began_s else 0.0

    def counts(self) -> Counts:
        """Programs under way, and those of them inside a tool."""
        at_work = list(self._at_work.values())
        return Counts(len(at_work), sum(not session.in_turn for session in at_work), 0)

    async def _begin(self) -> None:
        for _ in range(min(self._options.alive, len(self._plan))):
            await self._first_ready.acquire()
        self.began_s = time.time()
        self._go.set()

    async def _program(self, planned: Planned, record: ProgramRecord, places: asyncio.Semaphore) -> None:
        async with self._alive:
            session = None
            try:
                async with self._starting:
                    session = await self._in_thread(self._start, planned)
                    await self._in_thread(session.ready)
                self._first_ready.release()
                await self._go.wait()
                await asyncio.sleep(record.arrival_s - self.since())
                async with places:
                    if self._options.arrivals.concurrency is not None:
                        record.arrival_s = self.since()
                    await self._work(planned, record, session)
            except asyncio.CancelledError:
                record.failure = INTERRUPTED
                raise
            finally:
                if session is not None:
                    self._at_work.pop(planned.id, None)
                    self.turns[planned.id] = session.turns
                    await asyncio.shield(self._in_thread(session.close))
        self._ended(record)

    async def _work(self, planned: Planned, record: ProgramRecord, session: Session) -> None:
        self.late_s[planned.id] = max(0.0, self.since() - record.arrival_s)
        self._at_work[planned.id] = session
        session.begin()
        try:
            report = await self._in_thread(session.report, self._options.time_limit_s)
        except subprocess.TimeoutExpired:
            record.failure, record.detail = "timeout", f"after {self._options.time_limit_s:g} s"
        except TaskError as error:
            record.failure, record.detail = "died", str(error)
        else:
            self.reports[planned.id] = report
            if report["ended"] not in _ENDED_WELL:
                record.failure, record.detail = "agent_failed", report["ended"]

    def _start(self, planned: Planned) -> Session:
        options = self._options
        return Session(
            planned.task, options.form, self._url, self._folder / planned.id / "repository",
            held=True, cores=options.cores, reports_to=options.reports_to,
        )  # fmt: skip

    async def _in_thread(self, function: Callable, *arguments):
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)
