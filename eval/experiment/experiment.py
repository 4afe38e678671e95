"""An experiment as a TOML file: the cross product of points, setups, seeds and engines.

Top-level keys hold for all points; each ``[[points]]`` table says what is different for its own.
``docs/experiments.md`` lists the keys.
"""

from __future__ import annotations

import itertools
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval import defaults
from eval.experiment.cell import EMULATED, ENGINES, Cell, Point
from eval.experiment.checks import ExperimentError, Table, number, one_of, text, truth, whole
from eval.experiment.programs import loaded
from eval.experiment.setups import SIMULATED_ONLY, setups_of
from eval.experiments import shipped, shipped_names
from eval.replay.arrivals import Arrivals
from eval.setup import Setup
from eval.workload import WorkloadError
from mars_sglang.core.cost_model import ProfileError
from mars_sglang.emulation.profiles import load_profile

_POINT_KEYS = (
    "workloads", "profiles", "loads", "programs", "max_turns", "max_pause_s", "tool_slots", "says_over", "speed",
)  # fmt: skip
_KEYS = ("title", "about", "engines", "setups", "base", "seeds", "reference", "points", *_POINT_KEYS)
_LOADS = 'programs per second above 0, { concurrency = N }, or "all at once"'


@dataclass(frozen=True)
class Experiment:
    """A checked file. ``cells`` are in the order in which they are run: the first seed of everything first."""

    name: str
    title: str
    about: str
    base: str
    """Label of the setup that ratios are to."""
    cells: tuple[Cell, ...]
    reference: bool
    """Whether the lower bound and the clairvoyant are worked out for each point and seed."""


def load_experiment(name: str) -> Experiment:
    """A shipped experiment by name, or any by the path of its TOML file.

    Raises:
        ExperimentError: no such file, or it does not hold an experiment; names file, key, value and what is accepted.
    """
    path = shipped(name) or Path(name)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(shipped_names())
        raise ExperimentError(f"{name!r} is no experiment; accepted: {known}, or the path of a .toml file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ExperimentError(f"{path}: cannot be read: {error}") from error
    return experiment_of(document, path.stem, str(path))


def experiment_of(document: dict[str, Any], name: str, file: str) -> Experiment:
    """``document`` as an experiment; ``file`` stands at the head of errors. Raises ExperimentError."""
    top = Table(file, document, _KEYS)
    engines = top.many("engines", one_of(ENGINES), default=["simulator"])
    setups = setups_of(top)
    seeds = top.many("seeds", whole(0), default=[defaults.SEED])
    base = top.one("base", text, default=setups[0].label)
    if base not in (labels := [setup.label for setup in setups]):
        top.refuse("base", base, f"the label of one of its setups: {', '.join(labels)}")
    points = _points(top)
    cells = []
    for seed, (point, speed), setup, engine in itertools.product(seeds, points, setups, engines):
        cells.append(Cell(engine, point, setup, seed, speed if engine == EMULATED else None))
    if EMULATED in engines:
        _check_emulated(top, setups)
    twice = next((cell for cell in cells if cells.count(cell) > 1), None) if len(set(cells)) < len(cells) else None
    if twice:
        raise ExperimentError(f"{file}: {twice.label}: there twice; accepted: every cell once")
    return Experiment(name, top.one("title", text), top.one("about", text, default=""), base, tuple(cells),
                      top.one("reference", truth, default=True))  # fmt: skip


def _points(top: Table) -> list[tuple[Point, float]]:
    groups = top.tables("points", _POINT_KEYS) or [top]
    found = []
    for group in groups:
        inherited = group.over(top)
        workloads = inherited.many("workloads", text)
        profiles = inherited.many("profiles", text)
        loads = inherited.many("loads", _load)
        rest = (
            inherited.one("programs", whole(1), default=defaults.PROGRAMS),
            # As on the command line of the benchmark: 0 replays programs whole, and takes the limit off the tools.
            inherited.one("max_turns", whole(0), default=0) or None,
            float(inherited.one("max_pause_s", number(0), default=defaults.MAX_PAUSE_S)),
            inherited.one("tool_slots", whole(0), default=defaults.TOOL_SLOTS) or None,
            inherited.one("says_over", truth, default=False),
        )
        speed = float(inherited.one("speed", number(0.01), default=defaults.SPEED))
        for workload in workloads:
            _check(inherited, "workloads", workload, lambda name: loaded(name, defaults.SEED), WorkloadError)
        for profile in profiles:
            _check(inherited, "profiles", profile, load_profile, ProfileError)
        for workload, profile, load in itertools.product(workloads, profiles, loads):
            found.append((Point(workload, profile, load, *rest), speed))
    return found


def _check(table: Table, key: str, value: str, make, error: type[Exception]) -> None:
    try:
        make(value)
    except error as cause:
        raise ExperimentError(f"{table.where}: {key}: {cause}") from cause


def _load(value: Any) -> Arrivals:
    if value == "all at once":
        return Arrivals()
    try:
        if isinstance(value, dict) and list(value) == ["concurrency"]:
            return Arrivals(concurrency=whole(1)(value["concurrency"]))
        return Arrivals(rate=float(number(0)(value)))
    except ValueError:
        raise ValueError(_LOADS) from None


def _check_emulated(top: Table, setups: list[Setup]) -> None:
    for setup in setups:
        if setup.turn in SIMULATED_ONLY or setup.admission in SIMULATED_ONLY:
            top.refuse("setups", setup.label, "with the engine simulator only: no server offers it")
