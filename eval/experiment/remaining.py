"""How long the cells that are left will take, from those that are done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eval.experiment.cell import Cell
from eval.experiment.reference import Reference

Work = Cell | Reference


@dataclass(frozen=True)
class Left:
    """``seconds`` for what is of a known kind; ``unknown`` cells are of a kind of which none is done yet."""

    seconds: float
    unknown: int

    def __str__(self) -> str:
        if self.unknown and self.seconds < 1:
            return f"time left unknown: {self.unknown} of a kind not seen yet"
        about = _duration(self.seconds)
        return f"at least {about} left, and {self.unknown} of a kind not seen yet" if self.unknown else f"{about} left"


class Pace:
    """Mean real seconds per kind of work, the nearest kind of which something is done."""

    def __init__(self) -> None:
        self._seconds: dict[tuple, list[float]] = defaultdict(list)

    def done(self, work: Work, wall_s: float) -> None:
        """One more is finished."""
        for kind in _kinds(work):
            self._seconds[kind].append(wall_s)

    def left(self, works: Sequence[Work], width: Callable[[Work], int]) -> Left:
        """For ``works``, each of which runs beside ``width(work) - 1`` others."""
        seconds, unknown = 0.0, 0
        for work in works:
            known = next((self._seconds[kind] for kind in _kinds(work) if kind in self._seconds), None)
            if known is None:
                unknown += 1
            else:
                seconds += sum(known) / len(known) / width(work)
        return Left(seconds, unknown)


def _kinds(work: Work) -> list[tuple]:
    """From the nearest to the widest; never across engines, which differ by orders of magnitude."""
    point = work.point
    engine, setup = (work.engine, work.setup.label) if isinstance(work, Cell) else ("reference", "")
    return [
        (engine, point, setup),
        (engine, point.series, setup),
        (engine, point.series),
        (engine,),
    ]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
