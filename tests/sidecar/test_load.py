"""Hosts made of a few files: with either version of cgroups, and with none."""

from pathlib import Path

import pytest

from mars_sglang.sidecar.cgroup import CgroupError, Cgroups, find
from mars_sglang.sidecar.load import LoadReader

GIB = 2**30
V2 = "35 25 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1 = (
    "33 31 0:29 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
    "36 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
)


def make_host(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def proc(busy: int = 0, mounts: str = "", group: str = "0::/\n") -> dict[str, str]:
    return {
        "proc/self/mountinfo": mounts,
        "proc/self/cgroup": group,
        "proc/stat": f"cpu  {busy} 0 0 0\ncpu0 {busy} 0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 900 0 0 0 0 0 0\n",
        "proc/loadavg": "0.1 0.1 0.1 3/88 5502\n",
        "proc/meminfo": "MemTotal: 4194304 kB\nMemFree: 1 kB\nMemAvailable: 3145728 kB\n",
        "proc/pressure/cpu": "some avg10=50.00 avg60=0 avg300=0 total=1\n",
    }


def limited_v2(usage_us: int = 0, periods: int = 0, throttled: int = 0) -> dict[str, str]:
    return {
        "sys/fs/cgroup/tools/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/tools/cpu.stat": f"usage_usec {usage_us}\nnr_periods {periods}\nnr_throttled {throttled}\n",
        "sys/fs/cgroup/tools/memory.max": f"{GIB}\n",
        "sys/fs/cgroup/tools/memory.current": f"{GIB // 4}\n",
        "sys/fs/cgroup/tools/cpu.pressure": "some avg10=99.00 avg60=0 avg300=0 total=1\n",
        "sys/fs/cgroup/tools/job/cpu.max": "max 100000\n",
        "sys/fs/cgroup/tools/job/memory.max": "max\n",
    }


def test_a_host_without_cgroups_reports_itself(tmp_path):
    root = make_host(tmp_path, proc(busy=0))
    reader = LoadReader(find(root=root), frozenset({0, 1}), root=root)
    assert reader.read(10.0).cores_used == 0.0
    make_host(tmp_path, proc(busy=50))
    load = reader.read(11.0)
    assert load.cores == 2.0
    assert load.cores_used == pytest.approx(0.5)
    assert load.run_queue == 2
    assert load.cpu_pressure == 0.5
    assert load.memory_pressure is None and load.io_pressure is None
    assert load.throttled is None
    assert (load.memory_bytes, load.memory_limit_bytes) == (GIB, 4 * GIB)


def test_a_host_without_any_file_reports_its_cores_only(tmp_path):
    reader = LoadReader(find(root=tmp_path), frozenset({0}), root=tmp_path)
    reader.read(1.0)
    assert reader.read(2.0)._asdict() == {**dict.fromkeys(reader.read(3.0)._fields), "cores": 1.0, "cores_used": 0.0}


def test_version_2_finds_the_limits_above_its_own_group(tmp_path):
    root = make_host(tmp_path, proc(mounts=V2, group="0::/tools/job\n") | limited_v2())
    reader = LoadReader(find(root=root), root=root)
    reader.read(1.0)
    make_host(tmp_path, limited_v2(usage_us=1_200_000, periods=10, throttled=4))
    load = reader.read(2.0)
    assert load.cores == min(1.5, len(reader._cores))
    assert load.cores_used == pytest.approx(min(1.2, load.cores))
    assert load.throttled == 0.4
    assert load.cpu_pressure == 0.99
    assert (load.memory_bytes, load.memory_limit_bytes) == (GIB // 4, GIB)
    assert reader.read(3.0).throttled == 0.0


def test_version_1_in_a_container_that_is_told_the_hosts_path(tmp_path):
    def group(usage_ns: int, periods: int, throttled: int) -> dict[str, str]:
        return {
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.stat": f"nr_periods {periods}\nnr_throttled {throttled}\nthrottled_time 5\n",
            "sys/fs/cgroup/cpu,cpuacct/cpuacct.usage": f"{usage_ns}\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB}\n",
        }

    own = "4:cpu,cpuacct:/docker/abc\n5:memory:/docker/abc\n"
    root = make_host(tmp_path, proc(mounts=V1, group=own) | group(0, 0, 0))
    reader = LoadReader(find(root=root), root=root)
    reader.read(1.0)
    make_host(tmp_path, group(500_000_000, 4, 1))
    load = reader.read(2.0)
    assert (load.cores, load.cores_used, load.throttled) == (1.0, pytest.approx(0.5), 0.25)
    assert (load.memory_bytes, load.memory_limit_bytes) == (GIB, 2 * GIB)


def test_an_own_group_without_a_limit_says_nothing_about_the_host(tmp_path):
    files = {"sys/fs/cgroup/service/cpu.max": "max 100000\n", "sys/fs/cgroup/service/memory.max": "max\n"}
    root = make_host(tmp_path, proc(mounts=V2, group="0::/service\n") | files)
    assert find(root=root) == Cgroups()


@pytest.mark.parametrize("name", ["/service", "service", "/sys/fs/cgroup/service"])
def test_a_group_asked_for_is_reported_without_a_limit_too(tmp_path, name):
    files = {
        "sys/fs/cgroup/service/cpu.max": "max 100000\n",
        "sys/fs/cgroup/service/cpu.stat": "usage_usec 0\n",
        "sys/fs/cgroup/service/memory.max": "max\n",
    }
    root = make_host(tmp_path, proc(mounts=V2) | files)
    groups = find(name, root=root)
    assert groups.cpu is not None and groups.cpu.path == "service"
    assert LoadReader(groups, root=root).read(1.0).memory_limit_bytes == 4 * GIB


def test_a_group_that_is_not_there_is_named(tmp_path):
    root = make_host(tmp_path, proc(mounts=V2))
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    with pytest.raises(CgroupError, match="no cgroup '/nosuch'"):
        find("/nosuch", root=root)


def test_a_group_that_is_removed_leaves_the_rest_of_the_report(tmp_path):
    root = make_host(tmp_path, proc(mounts=V2, group="0::/tools\n") | limited_v2())
    reader = LoadReader(find(root=root), root=root)
    for name in ("cpu.max", "cpu.stat", "memory.max"):
        (tmp_path / "sys/fs/cgroup/tools" / name).write_text("")
    load = reader.read(1.0)
    assert load.run_queue == 2 and load.throttled is None and load.memory_limit_bytes == 4 * GIB


def test_this_host_can_be_read():
    reader = LoadReader(find())
    reader.read(1.0)
    load = reader.read(2.0)
    assert load.cores > 0 and load.memory_limit_bytes and 0 <= load.cores_used <= load.cores
