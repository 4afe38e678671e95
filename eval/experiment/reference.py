"""What a point's results can be held against: a bound that no policy can beat, and a policy that knows the future."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from eval.experiment.cell import SIMULATOR, Cell, Point, digest, slug
from eval.experiment.outcome import FORMAT
from eval.experiment.programs import drawn
from eval.experiment.setups import CLAIRVOYANT
from eval.setup import Setup
from mars_sglang.emulation.profiles import load_profile


@dataclass(frozen=True)
class Reference:
    """The distances of one point and seed. The same for the simulator and the emulated server."""

    point: Point
    seed: int
    host_ratio: float
    """Host tier of the clairvoyant; the lower bound knows none."""

    @property
    def key(self) -> str:
        """The same for equal references, whoever makes them."""
        return digest({"reference": self.configuration()})

    @property
    def label(self) -> str:
        """For people and ``--only``."""
        host = f" host{self.host_ratio:g}" if self.host_ratio else ""
        return f"reference {self.point.workload} {self.point.profile} {self.point.load}{host} seed {self.seed}"

    @property
    def file_name(self) -> str:
        """Readable, and unique by the key at its end."""
        return f"{slug(self.label)}-{self.key}.json"

    def configuration(self) -> dict[str, Any]:
        """As JSON."""
        return {"point": self.point.configuration(), "seed": self.seed, "host_ratio": self.host_ratio}


def reference_of(cell: Cell) -> Reference:
    """The reference that belongs to ``cell``."""
    return Reference(cell.point, cell.seed, cell.setup.host_ratio)


def available() -> bool:
    """Whether this installation has the bounds."""
    return find_spec("eval.bounds") is not None


def measure_reference(reference: Reference) -> dict[str, Any]:
    """Works both out: the content of the reference's file. Means of makespan in emulated seconds."""
    from eval.bounds import lower_bound
    from eval.experiment.simulated import run_simulated

    began = time.perf_counter()
    point, seed = reference.point, reference.seed
    programs = drawn(point, seed)
    arrivals_s = point.arrivals.times(len(programs.programs), seed)
    figures: dict[str, Any] = {}
    if point.arrivals.concurrency is None:
        # At a fixed concurrency arrivals depend on the policy, so there is no bound for all of them.
        bound = lower_bound(
            programs.programs, arrivals_s, load_profile(point.profile), point.tool_slots, point.max_pause_s,
            host_tier=reference.host_ratio > 0,
        )  # fmt: skip
        figures |= {"lower_bound_s": round(float(bound.mean_s), 3), "binds": bound.binds}
    cell = replace(
        Cell(SIMULATOR, point, Setup(), seed), setup=Setup(turn=CLAIRVOYANT, host_ratio=reference.host_ratio)
    )
    records = run_simulated(cell, programs).run.result.programs
    if all(record.completed for record in records):
        figures["clairvoyant_s"] = round(float(np.mean([record.makespan_s for record in records])), 3)
    return {
        "format": FORMAT,
        "key": reference.key,
        "label": reference.label,
        "configuration": reference.configuration(),
        "wall_s": round(time.perf_counter() - began, 2),
        "reference": figures,
    }
