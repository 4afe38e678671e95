"""Ctrl-C on the real command, with its processes."""

import os
import signal
import subprocess
import sys

EXPERIMENT = """
title = "Long"
workloads = "swebench"
profiles = "h200-qwen3-coder-30b"
loads = 0.2
programs = 40
max_turns = 12
setups = ["lpm"]
seeds = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29]
reference = false
"""


def _heed_ctrl_c() -> None:
    """A shell has what it runs in the background ignore it, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_what_is_finished_stays_and_no_process_is_left(tmp_path):
    path, out = tmp_path / "long.toml", tmp_path / "out"
    path.write_text(EXPERIMENT)
    command = [sys.executable, "-m", "mars_sglang.cli", "bench", "run", str(path), "--out", str(out), "--jobs", "2"]
    # In a group of its own: Ctrl-C goes to the command and its processes, as from a terminal, and to nobody else.
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0, preexec_fn=_heed_ctrl_c
    ) as running:
        said = [running.stdout.readline() for _ in range(3)]
        os.killpg(running.pid, signal.SIGINT)
        rest, errors = running.communicate(timeout=60)
    assert "[2/30]" in said[2]
    assert running.returncode == 130
    assert "interrupted; " in rest
    assert "Traceback" not in errors
    finished = len(list(out.glob("*.json")))
    assert 2 <= finished < 30
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
