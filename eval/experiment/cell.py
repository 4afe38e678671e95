"""What one measurement is: a point (workload, machine, load), a setup, a seed and an engine; hashed, its identity."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from eval.replay.arrivals import Arrivals
from eval.setup import Setup

SIMULATOR = "simulator"
EMULATED = "emulated"
ENGINES = (SIMULATOR, EMULATED)

_KEY_DIGITS = 12


@dataclass(frozen=True)
class Point:
    """What every setup is given alike. Times in emulated seconds."""

    workload: str
    profile: str
    arrivals: Arrivals
    programs: int
    max_turns: int | None
    """None: whole programs."""
    max_pause_s: float
    tool_slots: int | None
    """None: tools never wait."""
    says_over: bool = False
    """Whether clients say with a program's last turn that it is over, as few agents do."""

    @property
    def series(self) -> Point:
        """The point without its load: what a curve over loads has in common."""
        return replace(self, arrivals=Arrivals())

    @property
    def load(self) -> str:
        """Short form of the load, for labels."""
        if self.arrivals.rate is not None:
            return f"{self.arrivals.rate:g}/s"
        return f"{self.arrivals.concurrency} at a time" if self.arrivals.concurrency is not None else "all at once"

    @property
    def name(self) -> str:
        """Workload and machine, for titles."""
        slots = "" if self.tool_slots is None else f", {self.tool_slots} tool slots"
        turns = "" if self.max_turns is None else f" of at most {self.max_turns} turns"
        over = ", which say when they are over" if self.says_over else ""
        return f"{self.workload} on {self.profile}, {self.programs} programs{turns}{slots}{over}"

    def configuration(self) -> dict[str, Any]:
        """As JSON; :func:`point_of` reads it back."""
        return asdict(self)


@dataclass(frozen=True)
class Cell:
    """One run of one setup."""

    engine: str
    point: Point
    setup: Setup
    seed: int
    speed: float | None = None
    """Emulated seconds per real second; None in the simulator."""

    def configuration(self) -> dict[str, Any]:
        """Everything that decides the result but the code, as JSON; :func:`cell_of` reads it back."""
        configuration = {
            "engine": self.engine,
            "point": self.point.configuration(),
            "setup": asdict(self.setup),
            "seed": self.seed,
        }
        return configuration if self.speed is None else configuration | {"speed": self.speed}

    @property
    def key(self) -> str:
        """The same for equal cells, whoever makes them."""
        # The setup by its label: a field added to Setup later, at its default, changes no label.
        return digest(self.configuration() | {"setup": self.setup.label})

    @property
    def label(self) -> str:
        """For people and ``--only``."""
        point = self.point
        return f"{self.engine} {point.workload} {point.profile} {point.load} {self.setup.label} seed {self.seed}"

    @property
    def file_name(self) -> str:
        """Readable, and unique by the key at its end."""
        return f"{slug(self.label)}-{self.key}.json"


def point_of(configuration: dict[str, Any]) -> Point:
    """Reads back :meth:`Point.configuration`."""
    return Point(**configuration | {"arrivals": Arrivals(**configuration["arrivals"])})


def cell_of(configuration: dict[str, Any]) -> Cell:
    """Reads back :meth:`Cell.configuration`."""
    return Cell(
        configuration["engine"],
        point_of(configuration["point"]),
        Setup(**configuration["setup"]),
        configuration["seed"],
        configuration.get("speed"),
    )


def digest(value: Any) -> str:
    """Of anything that is JSON, the same whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS]


def slug(text: str) -> str:
    """``text`` as part of a file name."""
    return re.sub(r"[^\w.+,-]+", "-", text).strip("-")
