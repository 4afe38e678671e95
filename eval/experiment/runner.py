"""Runs the cells of an experiment that are not there yet, and writes each as soon as it is done."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.experiment.cell import EMULATED, Cell
from eval.experiment.experiment import Experiment
from eval.experiment.outcome import Outcome, document
from eval.experiment.programs import drawn
from eval.experiment.reference import available, measure_reference, reference_of
from eval.experiment.remaining import Pace, Work
from eval.experiment.store import Store
from eval.workload.source import Drawn

Engine = Callable[[Cell, Drawn], Outcome]

LOGS = "logs"
"""Folder beside the cells: what servers printed, and what went wrong."""


@dataclass(frozen=True)
class Tally:
    """What one call of :func:`run` did."""

    done: int
    there: int
    """Finished before, with the same configuration."""
    failed: int
    interrupted: bool


def planned(experiment: Experiment, only: str = "") -> list[Work]:
    """Cells whose label contains ``only``, simulated ones and references before emulated ones."""
    cells = [cell for cell in experiment.cells if only in cell.label]
    references = list(dict.fromkeys(map(reference_of, cells))) if experiment.reference and available() else []
    # Emulated cells run alone, so they are kept together; and last, because they take longest.
    return [
        *(cell for cell in cells if cell.engine != EMULATED),
        *references,
        *(cell for cell in cells if cell.engine == EMULATED),
    ]


def run(
    experiment: Experiment,
    out: Path,
    *,
    only: str = "",
    jobs: int | None = None,
    say: Callable[[str], None] = print,
    engine: Engine | None = None,
) -> Tally:
    """Runs what is missing in ``out``. Ctrl-C leaves every finished cell there.

    Args:
        jobs: processes for simulated cells; None: one per core. With 1 nothing is started.
        engine: stands in for both engines, in this process.

    Raises:
        StoreError: ``out`` holds something else.
    """
    store = Store(out)
    works = planned(experiment, only)
    finished = store.finished()
    missing = [work for work in works if work.key not in finished]
    say(f"{experiment.title}: {len(works)} to do, {len(works) - len(missing)} of them there already")
    jobs = 1 if engine else jobs or _cores()
    log = _Log(experiment, store, missing, jobs, say)
    interrupted = False
    try:
        with _terminable():
            alone = [work for work in missing if jobs == 1 or _alone(work)]
            beside = [work for work in missing if work not in alone]
            if beside:
                _in_processes(beside, min(jobs, len(beside)), out / LOGS, log)
            for work in alone:
                log.take(work, _caught(work, out / LOGS, engine))
    except KeyboardInterrupt:
        interrupted = True
        say(f"interrupted; {log.done} finished ones are in the directory, the same command goes on from there")
    return Tally(log.done, len(works) - len(missing), log.failed, interrupted)


def measure_cell(cell: Cell, logs: Path, engine: Engine | None = None) -> dict[str, Any]:
    """One cell from its programs to the content of its file."""
    began = time.perf_counter()
    programs = drawn(cell.point, cell.seed)
    if engine is not None:
        outcome = engine(cell, programs)
    elif cell.engine == EMULATED:
        from eval.experiment.emulated import run_emulated

        logs.mkdir(parents=True, exist_ok=True)
        outcome = run_emulated(cell, programs, logs / f"{cell.file_name.removesuffix('.json')}.log")
    else:
        from eval.experiment.simulated import run_simulated

        outcome = run_simulated(cell, programs)
    return document(cell, programs, outcome, time.perf_counter() - began)


class _Log:
    """Takes results in, writes them and tells how it goes."""

    def __init__(
        self, experiment: Experiment, store: Store, missing: Sequence[Work], jobs: int, say: Callable[[str], None]
    ) -> None:
        self._experiment = experiment
        self._places = {cell.key: place for place, cell in enumerate(experiment.cells)}
        self._store = store
        self._left = {work.key: work for work in missing}
        self._total = len(missing)
        self._jobs = jobs
        self._say = say
        self._pace = Pace()
        self.done = self.failed = 0

    def take(self, work: Work, result: dict[str, Any] | _Failure) -> None:
        del self._left[work.key]
        if isinstance(result, _Failure):
            self.failed += 1
            path = self._store.folder / LOGS / f"{work.file_name.removesuffix('.json')}.error.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(result.trace, encoding="utf-8")
            what = f"FAILED: {result.line}"
        else:
            experiment = self._experiment
            result["experiment"] = {
                "name": experiment.name, "title": experiment.title, "about": experiment.about,
                "base": experiment.base, "place": self._places.get(work.key, len(self._places)),
            }  # fmt: skip
            self._store.save(work.file_name, result)
            self._pace.done(work, result["wall_s"])
            self.done += 1
            makespan = result.get("summary", {}).get("makespan_s")
            mean = f"mean {makespan['mean']:.0f} s, " if makespan else ""
            what = f"{mean}took {result['wall_s']:.1f} s"
        place = self._total - len(self._left)
        left = self._pace.left(list(self._left.values()), lambda w: 1 if _alone(w) else self._jobs)
        self._say(f"[{place}/{self._total}] {work.label}: {what}; {left}")


@dataclass(frozen=True)
class _Failure:
    line: str
    trace: str


def _caught(work: Work, logs: Path, engine: Engine | None = None) -> dict[str, Any] | _Failure:
    try:
        return measure_cell(work, logs, engine) if isinstance(work, Cell) else measure_reference(work)
    except Exception as error:
        # One cell that cannot be run is told and kept apart; the others still get theirs.
        first = (str(error).splitlines() or [""])[0]
        return _Failure(f"{type(error).__name__}: {first}", traceback.format_exc())


def _in_processes(works: Sequence[Work], jobs: int, logs: Path, log: _Log) -> None:
    before = set(multiprocessing.active_children())
    # Not forked: a child that shares threads and open files with this process may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_leave_interrupts)
    try:
        todo = iter(works)
        running = {pool.submit(_caught, work, logs): work for work in itertools.islice(todo, jobs)}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                work = running.pop(future)
                log.take(work, future.result())
                for following in itertools.islice(todo, 1):
                    running[pool.submit(_caught, following, logs)] = following
    except BaseException:
        # What still runs is not waited for.
        workers = set(multiprocessing.active_children()) - before
        pool.shutdown(wait=False, cancel_futures=True)
        for process in workers:
            process.terminate()
        raise
    pool.shutdown()


def _leave_interrupts() -> None:
    # Ctrl-C goes to the whole group; the process that started this one decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM as Ctrl-C, where this is the main thread."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _alone(work: Work) -> bool:
    return isinstance(work, Cell) and work.engine == EMULATED


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
