"""Processes by id and start time."""

import subprocess

from mars_sglang.tools.process import Process, current, is_gone, of, started

STAT = "42 (a (b) c) S 1 42 42 0 -1 4194304 102 0 0 0 0 0 0 0 20 0 1 0 183013 3133440 384 0 0\n"


def test_start_time_behind_a_name_with_brackets():
    assert started(STAT) == 183013


def test_a_zombie_has_ended():
    assert started(STAT.replace(") S ", ") Z ")) is None


def test_other_text_is_no_process():
    for text in ("", ")", "1 (x) S 2", STAT.replace("183013", "x")):
        assert started(text) is None


def test_this_process_is_there():
    assert not is_gone(current())


def test_an_ended_process_is_gone_and_one_out_of_sight_is_not():
    running = subprocess.Popen(["sleep", "60"])
    process = of(running.pid)
    assert not is_gone(process)
    running.kill()
    running.wait()
    assert is_gone(process)
    assert not is_gone(Process("another kernel", process.pid, process.started))


def test_another_process_with_the_same_id_is_not_the_same():
    here = current()
    assert is_gone(Process(here.where, here.pid, here.started - 1))
