"""Which cores the engine may use and which the tools: never the same."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from mars_sglang.sidecar.kernel import core_list


@dataclass(frozen=True)
class Cores:
    """Two sets of cores with nothing in common."""

    engine: frozenset[int]
    tools: frozenset[int]

    @staticmethod
    def split(engine: str | None, tools: str | None) -> Cores:
        """From lists such as ``0-3,8``. What is not given is what the other leaves; if neither is, half each.

        Raises:
            ValueError: no list of cores, cores that this process may not use, an overlap, or none left.
        """
        here = os.sched_getaffinity(0)
        given = {"--engine-cores": engine, "--tool-cores": tools}
        read = {option: _read(option, text, here) for option, text in given.items() if text is not None}
        if not read:
            if len(here) < 2:
                raise ValueError(f"engine and tools need cores of their own; this process may use {_listed(here)} only")
            ordered = sorted(here)
            half = len(ordered) // 2
            return Cores(frozenset(ordered[:half]), frozenset(ordered[half:]))
        of_engine = read.get("--engine-cores") or frozenset(here - read["--tool-cores"])
        of_tools = read.get("--tool-cores") or frozenset(here - of_engine)
        if common := of_engine & of_tools:
            raise ValueError(
                f"--engine-cores {engine} and --tool-cores {tools} share {_listed(common)}; "
                "accepted: lists with no core in common"
            )
        if not (of_engine and of_tools):
            [(option, cores)] = read.items()
            raise ValueError(
                f"{option} {listed(cores)} leaves no core for the other; this process may use {_listed(here)}"
            )
        return Cores(of_engine, of_tools)

    def __str__(self) -> str:
        return f"engine {_listed(self.engine)}, tools {_listed(self.tools)}"


@contextlib.contextmanager
def on(cores: frozenset[int]) -> Iterator[None]:
    """The block runs on these cores, and what it starts does to its end."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _read(option: str, text: str, here: set[int]) -> frozenset[int]:
    try:
        cores = core_list(text)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error
    if unknown := cores - here:
        raise ValueError(f"{option} {text}: {_listed(unknown)} cannot be used; this process may use {_listed(here)}")
    return cores


def listed(cores: frozenset[int] | set[int]) -> str:
    """As on the command line: ``0,1,8``."""
    return ",".join(map(str, sorted(cores)))


def _listed(cores: frozenset[int] | set[int]) -> str:
    return f"core{'s' if len(cores) > 1 else ''} {listed(cores)}"
