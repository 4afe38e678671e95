"""A measured quantity against a size: several series, several rounds each."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

#: In the place of a base: each point is compared with the same series at its smallest size.
SMALLEST = "the smallest size"


@dataclass(frozen=True)
class Spread:
    """Of the rounds of one point."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """
        Raises:
            ValueError: no values.
        """
        if not values:
            raise ValueError("no rounds were measured; accepted: at least one")
        return cls(statistics.median(values), min(values), max(values))


@dataclass
class Curve:
    """One table and one panel of a picture."""

    name: str
    """Short, fit for a file name."""
    title: str
    size: str
    """What the sizes count."""
    unit: str = "µs"
    base: str | None = None
    """The series that the others are compared with, round by round, or :data:`SMALLEST`; None: nothing is compared."""
    remarks: list[str] = field(default_factory=list)
    values: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    """Series to size to one value per round, in ``unit``. Rounds of one size go together, so that their ratios do."""

    def put(self, series: str, size: int, values: Sequence[float]) -> None:
        self.values.setdefault(series, {})[size] = list(values)

    @property
    def sizes(self) -> list[int]:
        return sorted({size for points in self.values.values() for size in points})

    def spread(self, series: str, size: int) -> Spread | None:
        """None where this point was not measured."""
        values = self.values[series].get(size)
        return None if values is None else Spread.of(values)

    def ratio(self, series: str, size: int) -> Spread | None:
        """To the base, round by round; None where there is nothing to compare."""
        points = self.values[series]
        if self.base is None or size not in points or series == self.base:
            return None
        if self.base == SMALLEST:
            base = points[min(points)] if size != min(points) else None
        else:
            base = self.values[self.base].get(size)
        if base is None:
            return None
        return Spread.of([value / reference for value, reference in zip(points[size], base, strict=True)])

    def row(self) -> Mapping[str, object]:
        """As plain data, for a file."""
        return {
            "title": self.title,
            "size": self.size,
            "unit": self.unit,
            "base": self.base,
            "remarks": self.remarks,
            "values": {series: {str(size): v for size, v in points.items()} for series, points in self.values.items()},
        }
