"""The whole command: a real server with emulated timing, replayed and reported."""

import gzip
import json
import os
import socket

import pytest

from eval import bench
from eval.server import EmulatedServer, ServerError, _port


def test_an_unknown_workload_is_an_error_before_any_server(tmp_path, capsys):
    assert bench.main(["--workload", "nothing-here", "--out", str(tmp_path / "out")]) == 1
    assert "nothing-here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_server_that_cannot_be_reached_is_an_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv(bench.SPEED_ENV, "1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert bench.main(["--base-url", url, "--out", str(tmp_path)]) == 1
    assert url in capsys.readouterr().err


def test_a_server_that_dies_is_told_with_its_last_words(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv(bench.SPEED_ENV, "1")
    assert bench.main(["--profile", "no-such-gpu", "--policies", "fcfs", "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "ended with status" in error
    assert "no-such-gpu" in error
    assert "server-fcfs.log" in error


def test_a_port_in_use_or_promised_is_passed_over_and_an_asked_one_is_taken(tmp_path):
    first, claim = _port([])
    # Nothing listens there yet: a server takes seconds to.
    second, another = _port([])
    assert second > first
    for held in (claim, another):
        os.close(held)
    again, claim = _port([])
    os.close(claim)
    assert again == first
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        taken.listen()
        third, claim = _port([])
    os.close(claim)
    assert third > first
    assert EmulatedServer(["--port", "32077"], tmp_path / "log").base_url.endswith(":32077")
    assert EmulatedServer(["--port=32078"], tmp_path / "log").base_url.endswith(":32078")
    with pytest.raises(ServerError, match="accepted"):
        _port(["--port", "x"])


@pytest.mark.server
@pytest.mark.timeout(900)
def test_a_benchmark_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setenv(bench.SPEED_ENV, "1")
    argv = ["--policies", "fcfs", "--programs", "6", "--max-turns", "4", "--burst", "--max-pause", "2"]
    assert bench.main([*argv, "--speed", "4", "--out", str(tmp_path)]) == 0
    (run,) = json.loads((tmp_path / "summary.json").read_text())["runs"]
    assert (run["completed"], run["failed"], run["turns"]) == (6, 0, 24)
    assert run["token_error"]["share_within_2pct"] == 1
    assert run["retractions"] is not None
    assert run["emulation_error"]["speed"] == 4
    # Six contexts of some thousand tokens fit easily: what was computed stays cached.
    assert run["recomputed_tokens"] < 0.02 * run["prompt_tokens"]
    assert run["cached_tokens"] > 0.5 * run["prompt_tokens"]
    with gzip.open(tmp_path / "samples-fcfs.jsonl.gz", "rt") as lines:
        samples = [json.loads(line) for line in lines]
    assert max(sample["programs"] for sample in samples) == 6
    assert max(sample["kv_used_tokens"] for sample in samples) > 0
    for name in ("report.md", "makespan.png", "timeline.png", "turns-fcfs.jsonl.gz"):
        assert (tmp_path / name).stat().st_size > 0
