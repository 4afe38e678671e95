"""Texts of the kernel's files, read into numbers. None: the file is missing, or says no such thing."""

import re
from collections.abc import Container
from typing import NamedTuple

#: Version 1 of cgroups writes "no limit" as the largest page-aligned number.
_NO_LIMIT_BYTES = 2**60


class Mount(NamedTuple):
    """A line of ``/proc/self/mountinfo``."""

    root: str
    """The folder of the file system that shows at ``point``."""
    point: str
    type: str
    options: frozenset[str]


def number(text: str) -> int | None:
    """The whole text as one integer."""
    try:
        return int(text)
    except ValueError:
        return None


def keyed(text: str) -> dict[str, int]:
    """``name value`` lines, as in ``cpu.stat``."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def core_list(text: str) -> frozenset[int]:
    """Numbers of cores, written as ``0-3,8``.

    Raises:
        ValueError: anything else.
    """
    cores: set[int] = set()
    for part in text.strip().split(","):
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part.strip())
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"cores are {text!r}; accepted: numbers and ranges such as 0-3,8")
        cores.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(cores)


def busy_ticks(stat: str, cores: Container[int]) -> int | None:
    """Clock ticks that the given cores were not idle since boot, from ``/proc/stat``.

    Waiting for a disk is idle. What a hypervisor stole is busy: tools could not use it.
    """
    total = None
    for line in stat.splitlines():
        if not line.startswith("cpu"):
            break
        name, *fields = line.split()
        core = number(name[3:])
        if core is None or core not in cores or len(fields) < 4 or not all(field.isdigit() for field in fields):
            continue
        # user nice system idle iowait irq softirq steal; guest time is within user.
        times = [int(field) for field in fields[:8]]
        total = (total or 0) + sum(times) - sum(times[3:5])
    return total


def run_queue(loadavg: str) -> int | None:
    """Tasks that run or could, the reader not counted, from ``/proc/loadavg``."""
    match = re.match(r"\S+ \S+ \S+ (\d+)/\d+", loadavg)
    return max(0, int(match[1]) - 1) if match else None


def pressure(text: str) -> float | None:
    """Share of the last 10 s in which some task was stalled, 0 to 1, from a PSI file (``some avg10``)."""
    match = re.search(r"^some avg10=(\d+(?:\.\d+)?)\b", text, re.MULTILINE)
    return min(1.0, float(match[1]) / 100) if match else None


def core_quota(cpu_max: str) -> float | None:
    """Cores that a cgroup may use at a time, from ``cpu.max``; None without a limit."""
    words = cpu_max.split()
    if len(words) != 2 or not (words[0].isdigit() and words[1].isdigit()) or int(words[1]) == 0:
        return None
    return int(words[0]) / int(words[1])


def core_quota_v1(quota_us: str, period_us: str) -> float | None:
    """The same from ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us``."""
    quota, period = number(quota_us), number(period_us)
    return quota / period if quota and period and quota > 0 and period > 0 else None


def memory_limit(text: str) -> int | None:
    """Bytes, from ``memory.max`` or ``memory.limit_in_bytes``; None without a limit."""
    limit = number(text)
    return limit if limit is not None and 0 <= limit < _NO_LIMIT_BYTES else None


def host_memory(meminfo: str) -> tuple[int, int] | None:
    """Bytes in use and bytes in all, from ``/proc/meminfo``. What can be freed at once is not in use."""
    total = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.MULTILINE)
    available = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, re.MULTILINE)
    if total is None or available is None:
        return None
    return (int(total[1]) - int(available[1])) * 1024, int(total[1]) * 1024


def cgroup_paths(text: str) -> dict[str, str]:
    """Path of a process's cgroup by controller, from ``/proc/PID/cgroup``; ``""`` is version 2."""
    paths = {}
    for line in text.splitlines():
        fields = line.split(":", 2)
        if len(fields) == 3 and fields[2].startswith("/"):
            for controller in fields[1].split(","):
                paths[controller] = fields[2]
    return paths


def cgroup_mounts(mountinfo: str) -> list[Mount]:
    """Where the hierarchies of cgroups are, from ``/proc/self/mountinfo``."""
    found = []
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        left, right = before.split(), after.split()
        if separator and len(left) >= 5 and len(right) >= 3 and right[0] in ("cgroup", "cgroup2"):
            found.append(Mount(_unescaped(left[3]), _unescaped(left[4]), right[0], frozenset(right[2].split(","))))
    return found


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)
