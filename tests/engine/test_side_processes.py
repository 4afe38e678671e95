"""Processes beside the server: started again when they die, and not in a busy loop when they cannot start."""

import os
import signal
import time

import pytest

pytest.importorskip("sglang")

from mars_sglang.config import StreamConfig
from mars_sglang.engine.side_processes import SideProcess, beside


def until(done, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_process_is_started_again(tmp_path, caplog):
    (process,) = beside(StreamConfig(f"ipc://{tmp_path}/s", spawn=True))
    try:
        until((tmp_path / "s" / "stream.sock").exists)
        killed = process.pid
        os.kill(killed, signal.SIGKILL)

        def again():
            process.check()
            return process.pid != killed

        until(again)
        assert process.starts == 2 and "the control process ended with status -9" in caplog.text
    finally:
        process.stop()


def test_a_process_that_cannot_start_is_tried_less_and_less_often(caplog):
    process = SideProcess("control", "mars_sglang.control", ["--address", "nowhere"])
    ends = time.monotonic() + 3.0
    while time.monotonic() < ends:
        process.check()
        time.sleep(0.01)
    process.stop()
    assert 2 <= process.starts <= 5
    assert len([record for record in caplog.records if "starting it again" in record.message]) == 1


def test_nothing_is_started_for_a_control_process_that_runs_elsewhere(tmp_path):
    assert beside(StreamConfig(f"ipc://{tmp_path}/s")) == []
