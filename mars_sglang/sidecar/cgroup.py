"""Which cgroup bounds the tools of this host, and the folders in which it is described."""

from dataclasses import dataclass
from pathlib import Path

from mars_sglang.sidecar import kernel
from mars_sglang.sidecar.kernel_file import read_once


class CgroupError(ValueError):
    """A cgroup that was asked for by name and is not there."""


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One cgroup in the hierarchy of one controller. Version 2 has one hierarchy for all of them."""

    version: int
    top: Path
    """Where the hierarchy is mounted."""
    path: str
    """From there, ``""`` for the top itself."""

    @property
    def folder(self) -> Path:
        return self.top / self.path if self.path else self.top

    def and_above(self) -> list["Cgroup"]:
        """This group and those that hold it, innermost first: each may have a limit of its own."""
        parts = self.path.split("/") if self.path else []
        return [Cgroup(self.version, self.top, "/".join(parts[:n])) for n in range(len(parts), -1, -1)]

    def core_quota(self) -> float | None:
        if self.version == 2:
            return kernel.core_quota(read_once(self.folder / "cpu.max"))
        quota = read_once(self.folder / "cpu.cfs_quota_us")
        return kernel.core_quota_v1(quota, read_once(self.folder / "cpu.cfs_period_us"))

    def memory_limit(self) -> int | None:
        return kernel.memory_limit(
            read_once(self.folder / ("memory.max" if self.version == 2 else "memory.limit_in_bytes"))
        )


@dataclass(frozen=True, slots=True)
class Cgroups:
    """The groups that bound cores and memory; None where nothing does and the host itself is the bound."""

    cpu: Cgroup | None = None
    cpuacct: Cgroup | None = None
    """Where the use of ``cpu`` is counted: version 1 keeps that apart."""
    memory: Cgroup | None = None


def find(name: str | None = None, *, root: Path = Path("/")) -> Cgroups:
    """Find the groups to report on.

    Args:
        name: a cgroup, as in ``/proc/PID/cgroup`` or by its folder. None is the sidecar's own;
            then only a group with a limit counts, for one without says nothing about the host.
        root: where ``proc`` and ``sys`` are.

    Raises:
        CgroupError: no group of that name.
    """
    mounts = kernel.cgroup_mounts(read_once(root / "proc/self/mountinfo"))
    own = kernel.cgroup_paths(read_once(root / "proc/self/cgroup"))
    groups = {controller: _group(controller, mounts, own, name, root) for controller in ("cpu", "cpuacct", "memory")}
    if name is not None and groups["cpu"] is None and groups["memory"] is None:
        raise CgroupError(f"there is no cgroup {name!r}; accepted: a path as in /proc/PID/cgroup, or its folder")
    cpu = _tightest(groups["cpu"], Cgroup.core_quota, named=name is not None)
    memory = _tightest(groups["memory"], Cgroup.memory_limit, named=name is not None)
    cpuacct = cpu
    if cpu is not None and cpu.version == 1:
        counted = groups["cpuacct"]
        cpuacct = None if counted is None else Cgroup(1, counted.top, cpu.path)
    return Cgroups(cpu, cpuacct, memory)


def _group(controller: str, mounts: list[kernel.Mount], own: dict[str, str], name: str | None, root: Path):
    for mount in mounts:
        version = 2 if mount.type == "cgroup2" else 1
        if version == 1 and controller not in mount.options:
            continue
        if version == 2 and any(controller in other.options for other in mounts if other.type == "cgroup"):
            continue
        path = own.get("" if version == 2 else controller, "/") if name is None else _named(name, mounts)
        # A container may see its own group as the top of the hierarchy, yet be told the host's path.
        if path == mount.root or path.startswith(mount.root.rstrip("/") + "/"):
            path = path[len(mount.root.rstrip("/")) :]
        elif name is None:
            path = "/"
        top = root / mount.point.lstrip("/")
        group = Cgroup(version, top, path.strip("/"))
        if group.folder.is_dir():
            return group
        return Cgroup(version, top, "") if name is None else None
    return None


def _named(name: str, mounts: list[kernel.Mount]) -> str:
    for point in sorted((mount.point for mount in mounts), key=len, reverse=True):
        if name == point or name.startswith(point + "/"):
            return "/" + name[len(point) :].strip("/")
    return "/" + name.strip("/")


def _tightest(group: Cgroup | None, limit, *, named: bool) -> Cgroup | None:
    if group is None:
        return None
    limits = [(found, above) for above in group.and_above() if (found := limit(above)) is not None]
    if limits:
        return min(limits, key=lambda pair: pair[0])[1]
    return group if named else None
