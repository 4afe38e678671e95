"""The cells of a directory, put in order: series of points, points, setups, seeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from eval import defaults
from eval.experiment.cell import Cell, Point, cell_of, digest
from eval.experiment.interval import Estimate, mean_over_seeds, ratio_over_seeds
from eval.experiment.measures import measures
from eval.experiment.reference import reference_of
from eval.report.figures import worst_emulation_error


@dataclass(frozen=True)
class Measured:
    """One finished cell."""

    cell: Cell
    document: dict[str, Any]
    reference: dict[str, Any]
    """``lower_bound_s`` and ``clairvoyant_s``, as far as they are known."""

    @property
    def kept_up(self) -> bool:
        """Whether the machine was fast enough for the emulation; of the simulator always."""
        error = worst_emulation_error(self.document["summary"]["emulation_error"])
        return error is None or error <= defaults.EMULATION_ERROR_LIMIT

    @cached_property
    def measures(self) -> dict[str, float]:
        """As :func:`eval.experiment.measures.measures`, with ``over_bound`` and ``over_clairvoyant``."""
        found = measures(self.document)
        for name, reference in (("over_bound", "lower_bound_s"), ("over_clairvoyant", "clairvoyant_s")):
            if self.reference.get(reference) and "mean" in found:
                found[name] = found["mean"] / self.reference[reference]
        return found


class Runs:
    """All seeds of one setup at one point, on one engine."""

    def __init__(self, label: str, cells: list[Measured]) -> None:
        self.label = label
        self.cells = sorted(cells, key=lambda measured: measured.cell.seed)

    @property
    def seeds(self) -> int:
        """How many."""
        return len(self.cells)

    def values(self, name: str) -> dict[int, float]:
        """One figure by seed; the seeds that do not have it are left out."""
        return {m.cell.seed: m.measures[name] for m in self.cells if name in m.measures}

    def estimate(self, name: str) -> Estimate | None:
        """The mean of one figure over seeds; None if no seed has it."""
        values = self.values(name)
        return mean_over_seeds(list(values.values())) if values else None

    def gain(self, base: Runs, name: str = "mean") -> Estimate | None:
        """``base``'s figure over this one's, paired by seed."""
        return ratio_over_seeds(base.values(name), self.values(name))


class PointResults:
    """Every setup at one point, on one engine."""

    def __init__(self, engine: str, point: Point, runs: dict[str, Runs]) -> None:
        self.engine = engine
        self.point = point
        self.runs = runs


class Study:
    """What a directory holds. ``base`` is the label that ratios are to."""

    def __init__(self, documents: list[dict[str, Any]], base: str | None = None) -> None:
        references = {d["key"]: d["reference"] for d in documents if "reference" in d and "summary" not in d}
        self.cells = [_measured(d, references) for d in documents if "summary" in d]
        named = [d["experiment"] for d in documents if "experiment" in d]
        self.title = " and ".join(dict.fromkeys(e["title"] for e in named)) or "Results"
        self.about = list(dict.fromkeys(e["about"] for e in named if e["about"]))
        self.labels = list(dict.fromkeys(measured.cell.setup.label for measured in self.cells))
        if base is not None and base not in self.labels:
            raise ValueError(f"--base {base!r}; accepted: {', '.join(self.labels)}")
        self.base = base or next((e["base"] for e in named if e["base"] in self.labels), None)
        self.points = list(self._grouped())

    @property
    def engines(self) -> list[str]:
        """In the order of their points."""
        return list(dict.fromkeys(results.engine for results in self.points))

    def series(self) -> list[list[PointResults]]:
        """Points that differ in their load alone, lightest first."""
        found: dict[tuple[str, Point, str], list[PointResults]] = {}
        for results in self.points:
            found.setdefault((results.engine, results.point.series, _kind_of_load(results.point)), []).append(results)
        return [sorted(points, key=lambda results: load_of(results.point)) for points in found.values()]

    def _grouped(self) -> Iterator[PointResults]:
        found: dict[tuple[str, str], list[Measured]] = {}
        for measured in self.cells:
            found.setdefault((measured.cell.engine, digest(measured.cell.point.configuration())), []).append(measured)
        for cells in found.values():
            labels = dict.fromkeys(measured.cell.setup.label for measured in cells)
            # In one order everywhere, so that a setup keeps its place and its colour.
            runs = {
                label: Runs(label, [m for m in cells if m.cell.setup.label == label])
                for label in sorted(labels, key=self.labels.index)
            }
            yield PointResults(cells[0].cell.engine, cells[0].cell.point, runs)


def load_of(point: Point) -> float:
    """Programs per second, or at a time; 0 for all at once."""
    return point.arrivals.rate or point.arrivals.concurrency or 0.0


def _kind_of_load(point: Point) -> str:
    return "rate" if point.arrivals.rate is not None else "concurrency" if point.arrivals.concurrency else "burst"


def _measured(document: dict[str, Any], references: dict[str, dict[str, Any]]) -> Measured:
    cell = cell_of(document["configuration"])
    return Measured(cell, document, document.get("reference") or references.get(reference_of(cell).key, {}))
