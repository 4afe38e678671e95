"""Ending with the process that one was started for."""

import os
import subprocess
import sys

import pytest

from mars_sglang import parent

#: Starts a child that says when it is orphaned, leaves it the pipe, and lives until its own is closed.
PARENT = """
import os, subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1]])
os.close(1)
sys.stdin.read()
"""
CHILD = """
import os, time
from mars_sglang import parent
{change}
gone = parent.watch(os.getppid())
print("alive" if not gone() else "gone", flush=True)
deadline = time.monotonic() + 20
while not gone() and time.monotonic() < deadline:
    time.sleep(0.01)
print("gone" if gone() else "alive", flush=True)
"""
FORBIDDEN = """
def refuse(pid): raise PermissionError(1, "Operation not permitted")
os.pidfd_open = refuse
"""


def test_no_process_never_ends():
    assert not parent.watch(None)()


def test_a_process_that_was_not_started_by_us_is_seen_to_end():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        gone = parent.watch(other.pid)
        assert not gone()
        other.kill()
        other.wait()
        assert gone()


def test_one_that_had_ended_already_is_gone():
    other = subprocess.Popen([sys.executable, "-c", ""])
    other.wait()
    assert parent.watch(other.pid)()


def test_one_that_nobody_has_waited_for_yet_is_gone():
    with subprocess.Popen([sys.executable, "-c", ""]) as other:
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        assert parent.watch(other.pid)()


@pytest.mark.parametrize("change", ["", FORBIDDEN, "del os.pidfd_open"], ids=["pidfd", "forbidden", "old kernel"])
def test_a_child_sees_the_end_of_its_parent_on_any_kernel(change):
    command = [sys.executable, "-c", PARENT, CHILD.format(change=change)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline() == "alive\n"
        running.kill()
        running.wait()
        assert running.stdout.readline() == "gone\n"
