"""Texts as kernels write them, of both versions of cgroups, and texts that no kernel writes."""

import pytest

from mars_sglang.sidecar import kernel

STAT = """\
cpu  1000 10 200 8000 300 5 15 20 50 0
cpu0 600 10 100 3500 100 5 10 20 50 0
cpu1 400 0 100 4500 200 0 5 0 0 0
intr 123456 0 9
ctxt 7654321
procs_running 3
"""

MOUNTS_V1 = """\
25 30 0:23 / /sys rw,nosuid - sysfs sysfs rw
31 25 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
33 31 0:29 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro,nosuid master:11 - cgroup cgroup rw,cpu,cpuacct
36 31 0:32 /docker/abc /sys/fs/cgroup/memory ro,nosuid master:14 - cgroup cgroup rw,memory
"""
MOUNTS_V2 = "35 25 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"


def test_pressure_is_the_share_of_some_avg10():
    text = "some avg10=12.50 avg60=3.00 avg300=0.06 total=34682957\nfull avg10=1.00 avg60=0.00 avg300=0.00 total=0\n"
    assert kernel.pressure(text) == 0.125


def test_busy_ticks_leave_out_idle_and_iowait_and_count_what_was_stolen():
    assert kernel.busy_ticks(STAT, {0}) == 600 + 10 + 100 + 5 + 10 + 20
    assert kernel.busy_ticks(STAT, {0, 1}) == 745 + 505


def test_cores_that_are_not_there_have_no_use():
    assert kernel.busy_ticks(STAT, {7}) is None


def test_run_queue_does_not_count_the_reader():
    assert kernel.run_queue("0.18 0.20 0.15 4/88 5502\n") == 3
    assert kernel.run_queue("0.18 0.20 0.15 0/88 5502\n") == 0


def test_quota_of_both_versions():
    assert kernel.core_quota("150000 100000\n") == 1.5
    assert kernel.core_quota("max 100000\n") is None
    assert kernel.core_quota_v1("400000\n", "100000\n") == 4.0
    assert kernel.core_quota_v1("-1\n", "100000\n") is None


def test_memory_limit_of_both_versions():
    assert kernel.memory_limit("2147483648\n") == 2**31
    assert kernel.memory_limit("max\n") is None
    assert kernel.memory_limit("9223372036854771712\n") is None


def test_host_memory_is_what_is_not_available():
    text = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    400 kB\nHugePages_Total:       0\n"
    assert kernel.host_memory(text) == (600 * 1024, 1000 * 1024)


def test_keyed_lines():
    text = "usage_usec 5000\nnr_periods 10\nnr_throttled 3\nthrottled_usec 77\n"
    assert kernel.keyed(text) == {"usage_usec": 5000, "nr_periods": 10, "nr_throttled": 3, "throttled_usec": 77}


def test_cgroup_paths_of_both_versions():
    assert kernel.cgroup_paths("0::/user.slice/a:b\n") == {"": "/user.slice/a:b"}
    assert kernel.cgroup_paths("4:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n") == {
        "cpu": "/docker/abc",
        "cpuacct": "/docker/abc",
        "name=systemd": "/",
    }


def test_cgroup_mounts_of_both_versions():
    (two,) = kernel.cgroup_mounts(MOUNTS_V2)
    assert (two.root, two.point, two.type) == ("/", "/sys/fs/cgroup", "cgroup2")
    cpu, memory = kernel.cgroup_mounts(MOUNTS_V1)
    assert (cpu.root, cpu.point) == ("/docker/abc", "/sys/fs/cgroup/cpu,cpuacct")
    assert {"cpu", "cpuacct"} <= cpu.options and "memory" in memory.options


def test_a_mount_point_with_a_space_is_unescaped():
    (mount,) = kernel.cgroup_mounts("35 25 0:30 / /mnt/c\\040g rw - cgroup2 none rw\n")
    assert mount.point == "/mnt/c g"


@pytest.mark.parametrize("text", ["0-3,8", " 8 , 0-3\n"])
def test_core_list(text):
    assert kernel.core_list(text) == {0, 1, 2, 3, 8}


@pytest.mark.parametrize("text", ["", "a", "3-1", "1,,2", "0-", "-1", "1;2"])
def test_a_core_list_that_is_none_is_named(text):
    with pytest.raises(ValueError, match="accepted: numbers and ranges such as 0-3,8"):
        kernel.core_list(text)


@pytest.mark.parametrize(
    "text", ["", "\n", "some", "some avg10=", "cpu", "max", "a b c d/e f", "::", "\0\ufffd", "- - -"]
)
def test_other_text_tells_nothing_and_raises_nothing(text):
    assert kernel.pressure(text) is None
    assert kernel.busy_ticks(text, {0}) is None
    assert kernel.busy_ticks(f"cpu0 {text}", {0}) is None
    assert kernel.run_queue(text) is None
    assert kernel.core_quota(text) is None
    assert kernel.core_quota_v1(text, text) is None
    assert kernel.memory_limit(text) is None
    assert kernel.host_memory(text) is None
    assert kernel.keyed(text) == {}
    assert kernel.cgroup_mounts(text) == []
    kernel.cgroup_paths(text)
