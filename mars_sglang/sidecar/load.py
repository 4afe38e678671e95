"""How busy this host is, as the kernel tells it."""

import os
from pathlib import Path
from typing import NamedTuple

from mars_sglang.sidecar import kernel
from mars_sglang.sidecar.cgroup import Cgroup, Cgroups
from mars_sglang.sidecar.kernel_file import KernelFile


class HostLoad(NamedTuple):
    """The kernel's part of :class:`mars_sglang.stream.events.ExecutorLoad`, by the same names."""

    cores: float
    cores_used: float = 0.0
    run_queue: float | None = None
    cpu_pressure: float | None = None
    memory_pressure: float | None = None
    io_pressure: float | None = None
    throttled: float | None = None
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None


class LoadReader:
    """Reads the load since the last reading. What a file does not tell is None, never an error.

    Args:
        cores: numbers of the cores that tools may use; None for those that this process may.
        cgroups: what bounds them. With ``cores``, the use of those is read and not the group's.
        root: where ``proc`` is.
    """

    def __init__(self, cgroups: Cgroups, cores: frozenset[int] | None = None, *, root: Path = Path("/")):
        self._cores = cores or frozenset(os.sched_getaffinity(0))
        self._cpu = None if cgroups.cpu is None else _CpuFiles(cgroups.cpu, cgroups.cpuacct)
        self._usage = None if cores is not None or self._cpu is None else self._cpu.usage
        self._stat = KernelFile(root / "proc/stat")
        self._loadavg = KernelFile(root / "proc/loadavg")
        self._pressure = [_pressure_file(kind, cgroups, root) for kind in ("cpu", "memory", "io")]
        self._memory = _memory_files(cgroups.memory)
        self._meminfo = KernelFile(root / "proc/meminfo")
        self._last_busy: tuple[float, float] | None = None
        self._last_periods: tuple[int, int] | None = None

    def read(self, at_s: float) -> HostLoad:
        """Args: at_s: real seconds now, on any clock that does not go back."""
        quota = None if self._cpu is None else self._cpu.quota()
        cores = float(len(self._cores)) if quota is None else min(quota, float(len(self._cores)))
        memory_bytes, memory_limit = self._read_memory()
        cpu, memory, io = (kernel.pressure(file.read()) for file in self._pressure)
        return HostLoad(
            cores=cores,
            cores_used=self._cores_used(at_s, cores),
            run_queue=kernel.run_queue(self._loadavg.read()),
            cpu_pressure=cpu,
            memory_pressure=memory,
            io_pressure=io,
            throttled=self._throttled(),
            memory_bytes=memory_bytes,
            memory_limit_bytes=memory_limit,
        )

    def _cores_used(self, at_s: float, cores: float) -> float:
        if self._usage is not None:
            busy_s = self._usage()
        else:
            ticks = kernel.busy_ticks(self._stat.read(), self._cores)
            busy_s = None if ticks is None else ticks / os.sysconf("SC_CLK_TCK")
        if busy_s is None:
            return 0.0
        last, self._last_busy = self._last_busy, (at_s, busy_s)
        if last is None or at_s <= last[0]:
            return 0.0
        return min(cores, max(0.0, (busy_s - last[1]) / (at_s - last[0])))

    def _throttled(self) -> float | None:
        periods = None if self._cpu is None else self._cpu.periods()
        if periods is None:
            return None
        last, self._last_periods = self._last_periods, periods
        if last is None or periods[0] <= last[0]:
            return 0.0
        return min(1.0, max(0.0, (periods[1] - last[1]) / (periods[0] - last[0])))

    def _read_memory(self) -> tuple[int | None, int | None]:
        if self._memory is not None:
            current, limit = (file.read() for file in self._memory)
            if (bound := kernel.memory_limit(limit)) is not None:
                return kernel.number(current), bound
        return kernel.host_memory(self._meminfo.read()) or (None, None)


class _CpuFiles:
    def __init__(self, group: Cgroup, counted: Cgroup | None):
        self._version = group.version
        self._stat = KernelFile(group.folder / "cpu.stat")
        if group.version == 2:
            self._limits = [KernelFile(group.folder / "cpu.max")]
        else:
            self._limits = [KernelFile(group.folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
            self._counted = None if counted is None else KernelFile(counted.folder / "cpuacct.usage")

    def quota(self) -> float | None:
        texts = [file.read() for file in self._limits]
        return kernel.core_quota(*texts) if self._version == 2 else kernel.core_quota_v1(*texts)

    def usage(self) -> float | None:
        """CPU seconds that the group has used."""
        if self._version == 2:
            usage_us = kernel.keyed(self._stat.read()).get("usage_usec")
            return None if usage_us is None else usage_us / 1e6
        usage_ns = None if self._counted is None else kernel.number(self._counted.read())
        return None if usage_ns is None else usage_ns / 1e9

    def periods(self) -> tuple[int, int] | None:
        """Periods in which the group ran, and those of them in which it was throttled."""
        found = kernel.keyed(self._stat.read())
        if "nr_periods" not in found or "nr_throttled" not in found:
            return None
        return found["nr_periods"], found["nr_throttled"]


def _memory_files(group: Cgroup | None) -> list[KernelFile] | None:
    if group is None:
        return None
    names = (
        ("memory.current", "memory.max") if group.version == 2 else ("memory.usage_in_bytes", "memory.limit_in_bytes")
    )
    return [KernelFile(group.folder / name) for name in names]


def _pressure_file(kind: str, cgroups: Cgroups, root: Path) -> KernelFile:
    """The group's own pressure where it has one: the host's says little about tools with a tighter bound."""
    group = cgroups.memory if kind == "memory" else cgroups.cpu
    if group is not None and group.version == 2:
        path = group.folder / f"{kind}.pressure"
        if path.exists():
            return KernelFile(path)
    return KernelFile(root / "proc/pressure" / kind)
