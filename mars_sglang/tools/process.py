"""Which process runs a tool call: known again after its end, though its id be taken by another."""

import functools
import os

import msgspec

from mars_sglang.stream.events import Name


class Process(msgspec.Struct, frozen=True):
    """A process of this host, in the sight of those that share its process ids."""

    where: Name
    """The running kernel and its namespace of process ids."""
    pid: int
    started: int
    """Clock ticks from the kernel's start to the process's."""


@functools.cache
def where() -> str | None:
    """The place in which process ids mean the same; None where the kernel does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def started(stat: str) -> int | None:
    """Start time in clock ticks, from ``/proc/PID/stat``; None for a process that ended, or other text."""
    # The name, second, may hold spaces and brackets; state is third and start time twenty-second.
    fields = stat.rpartition(")")[2].split()
    if len(fields) < 20 or fields[0] in "ZXx" or not fields[19].isdigit():
        return None
    return int(fields[19])


def current() -> Process | None:
    """This process; None where the kernel does not tell."""
    return of(os.getpid())


def of(pid: int) -> Process | None:
    """A process by its id; None where there is none, or it ended."""
    place, start = where(), started(_stat(pid))
    return None if place is None or start is None else Process(place, pid, start)


def is_gone(process: Process) -> bool:
    """Whether the process ended; False for one that cannot be seen from here."""
    return process.where == where() and started(_stat(process.pid)) != process.started


def _stat(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
