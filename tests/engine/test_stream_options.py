"""The stream as flags make it: recorded and replayed, beside a sidecar, and over TCP with keys."""

import json
import subprocess
import sys
import threading

import pytest

pytest.importorskip("sglang")

from mars_sglang.stream.events import PausePredicted, TurnEnded
from mars_sglang.stream.keys import Keys
from tests.engine.test_stream_server import Heard, chat
from tests.serving import emulated_server, free_port

pytestmark = pytest.mark.server

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa " * 40


def agents(server, count: int, turns: int) -> list[Exception]:
    """Agents in a closed loop, in threads; what failed."""
    failures: list[Exception] = []

    def agent(name):
        messages = [{"role": "user", "content": f"{name} {WORDS}"}]
        try:
            for turn in range(turns):
                chat(
                    server,
                    name,
                    f"step {turn}\n```bash\nls {turn}\n```",
                    messages=messages,
                    is_last_step=turn == turns - 1,
                )
                messages = [*messages, {"role": "assistant", "content": "x"}, {"role": "user", "content": WORDS}]
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=agent, args=(f"agent-{i}",)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def command(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "mars_sglang.cli", *arguments], capture_output=True, text=True)


def test_a_recorded_stream_is_replayed_to_the_same_decisions_and_drawn(tmp_path):
    recording = tmp_path / "recording"
    flags = ("--scheduler-policy", "mars", "--mars-record", str(recording), "--mars-sidecar", "on")
    # Room for two or three of the programs: the gate has to decide, and memory to be reclaimed.
    with emulated_server(tmp_path, *flags, "--max-total-tokens", "6000", speed=50.0) as server:
        with Heard(server) as heard:
            assert agents(server, count=8, turns=4) == []
            heard.until(lambda: len([e for e in heard.of(TurnEnded) if e.last]) == 8)
            heard.until(lambda: len(heard.of(PausePredicted)) >= 8 * 3)
        state = server.get("/mars/state")
        assert len(state["executors"]) == 1, "the sidecar beside the server reports"
        assert state["stream"]["dropped"] == 0 and state["gate"]["waiting"] == 0
    first, second = tmp_path / "first", tmp_path / "second"
    replayed = command("replay", str(recording), "--decisions", str(first))
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    assert command("replay", str(recording), "--decisions", str(second)).returncode == 0
    assert first.read_bytes() == second.read_bytes()
    kinds = {json.loads(line)["kind"] for line in first.read_text().splitlines()}
    assert {"admission_ticket", "admission_window", "pause_predicted"} <= kinds
    trace = tmp_path / "trace.json"
    assert command("timeline", str(recording), "-o", str(trace)).returncode == 0
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"prefill", "decode", "retained"} <= names


def test_over_tcp_with_keys(tmp_path):
    keys, address = str(tmp_path / "keys"), f"tcp://127.0.0.1:{free_port()}"
    assert command("keys", keys).returncode == 0
    control = subprocess.Popen([sys.executable, "-m", "mars_sglang.control", "--address", address, "--keys", keys])
    try:
        flags = ("--scheduler-policy", "mars", "--mars-control", address, "--mars-keys", keys)
        with emulated_server(tmp_path, *flags) as server:
            with Heard(server, keys=Keys.load(keys)) as heard:
                chat(server, "far")
                assert heard.turn_ended("far").output_tokens > 0
            assert server.get("/mars/state")["stream"]["connected"]
    finally:
        control.terminate()
        assert control.wait(10) == 0
