"""The sidecar as a process: what it sends, and what becomes of it when others misbehave."""

import os
import signal
import subprocess
import sys
import time

import msgspec
import pytest
import zmq

from mars_sglang.sidecar.__main__ import TAKEN, WRONG_ARGUMENTS
from mars_sglang.stream.events import (
    ExecutorLoad,
    SourceStopped,
    ToolEnded,
    ToolFailed,
    ToolStarted,
)
from mars_sglang.stream.snapshot import Snapshot
from mars_sglang.stream.subscriber import Subscriber
from tests.sidecar.running import Events, folder, process, sidecar, tool_socket, until

BUSY = "while True: pass"

CALL = """
import os, sys, time
import mars_sglang
with mars_sglang.tool_call("p", "bash", "cd /x && pytest -q"):
    print("inside", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def place():
    with folder() as path:
        yield path


def in_a_call(place: str) -> subprocess.Popen:
    """A process that is inside a tool call until it reads a line."""
    running = subprocess.Popen(
        [sys.executable, "-c", CALL],
        env=os.environ | {"MARS_SGLANG_TOOLS": f"ipc://{place}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout.readline() == "inside\n"
    return running


def end(running: subprocess.Popen) -> None:
    running.communicate("\n", timeout=20)


def message(kind: str, **fields) -> bytes:
    return msgspec.msgpack.encode({"kind": kind, "program": "p", "call": "c", "tool": "t", **fields})


def test_it_reports_at_its_interval_and_says_goodbye(place):
    with Events(place) as events, sidecar(place, "--slots", "4") as running:
        loads = events.wait_for(ExecutorLoad, count=8)
        running.send_signal(signal.SIGTERM)
        events.wait_for(SourceStopped)
        assert running.wait(5) == 0
    assert all(load.executor == "host-a" and load.slots == 4 and load.cores > 0 for load in loads)
    assert [event.source_seq for event in events.all] == list(range(1, len(events.all) + 1))


def test_a_busy_process_is_seen(place):
    with Events(place) as events, sidecar(place):
        events.wait_for(ExecutorLoad)
        busy = subprocess.Popen([sys.executable, "-c", BUSY])
        try:
            seen = until(
                lambda: [load for load in events.of(ExecutorLoad)[-3:] if load.cores_used >= 0.7], "a core in use"
            )
        finally:
            busy.kill()
            busy.wait()
        assert seen[0].run_queue is None or seen[0].run_queue >= 0


def test_a_tool_call_comes_through_in_order(place):
    with Events(place) as events, sidecar(place):
        events.wait_for(ExecutorLoad)
        running = in_a_call(place)
        events.wait_for(ToolStarted)
        until(lambda: events.of(ExecutorLoad)[-1].active == 1, "the call to count as active")
        end(running)
        events.wait_for(ToolEnded)
        started, ended = events.of(ToolStarted, ToolEnded)
        until(lambda: events.of(ExecutorLoad)[-1].service_s is not None, "a service time")
        assert events.of(ExecutorLoad)[-1].active == 0
    assert (started.program, started.tool, started.command, started.executor) == ("p", "bash", "pytest", "host-a")
    assert started.call == ended.call and ended.duration_s >= ended.time_s - started.time_s - 0.1


def test_a_call_whose_process_is_killed_failed(place):
    with Events(place) as events, sidecar(place):
        events.wait_for(ExecutorLoad)
        running = in_a_call(place)
        events.wait_for(ToolStarted)
        running.kill()
        running.communicate()
        (failed,) = events.wait_for(ToolFailed)
        assert failed.error == "its process vanished"


def test_dynamos_frames_come_through_for_their_tenant(place):
    def frames(kind: str, **tool) -> list[bytes]:
        record = {
            "event_type": kind,
            "agent_context": {"session_id": "run", "trajectory_id": "run:child"},
            "tool": {"tool_call_id": "call_0", "tool_class": "web_search", **tool},
        }
        return [b"topic", (7).to_bytes(8), msgspec.msgpack.encode(record)]

    with Events(place) as events, sidecar(place, MARS_SGLANG_API_KEY="key"), tool_socket(place) as socket:
        events.wait_for(ExecutorLoad)
        socket.send_multipart(frames("tool_start"))
        socket.send_multipart(frames("tool_error", duration_ms=250, status="timeout"))
        (failed,) = events.wait_for(ToolFailed)
        (started,) = events.of(ToolStarted)
    assert started.program == failed.program and failed.program.endswith("/run:child")
    assert (failed.tool, failed.duration_s, failed.error) == ("web_search", 0.25, "timeout")


def test_malformed_and_oversized_messages_are_counted_and_nothing_else(place):
    with Events(place) as events, sidecar(place) as running, tool_socket(place) as socket:
        events.wait_for(ExecutorLoad)
        for payload in (b"", b"\xc1", b"x" * 100_000, message("tool_started", program=""), b"\x91" * 60_000):
            socket.send(payload)
        socket.send_multipart([b"many"] * 1000)
        socket.send(b"x" * 2_000_000)
        until(lambda: socket.poll(0, zmq.POLLOUT), "the connection to be made again")
        time.sleep(0.3)
        socket.send(message("tool_started"))
        events.wait_for(ToolStarted)
        running.send_signal(signal.SIGTERM)
        assert running.wait(5) == 0
        said = running.stderr.read()
    assert "malformed 5, oversized 1" in said
    assert len(events.of(ToolStarted)) == 1


def test_a_flood_leaves_memory_and_reports_as_they_are(place):
    with Events(place) as events, sidecar(place) as running, tool_socket(place) as socket:
        events.wait_for(ExecutorLoad)
        before = resident_bytes(running.pid)
        stop = time.monotonic() + 3.0
        sent = dropped = 0
        while time.monotonic() < stop:
            try:
                socket.send(message("tool_started", call=f"{sent:08}", command="x" * 250), zmq.NOBLOCK)
                sent += 1
            except zmq.Again:
                dropped += 1
                time.sleep(0.001)
            events.read()
        assert dropped and sent
        assert resident_bytes(running.pid) - before < 64 * 2**20
        told = len(events.of(ToolStarted))
        assert told <= 3.5 * 4400
        assert len(events.of(ExecutorLoad)) >= 10
        assert running.poll() is None


def test_it_outlives_the_absence_of_the_control_process(place):
    with sidecar(place) as running:
        until(lambda: os.path.exists(f"{place}/tools.sock"), "the socket of tools")
        time.sleep(0.5)
        assert running.poll() is None
        with Events(place) as events:
            events.wait_for(ExecutorLoad)


def known_calls(place: str) -> list[str] | None:
    """Tools of the calls in flight that the control process knows of, as a new reader is told; None if nothing is."""
    with Subscriber(f"ipc://{place}") as reader:
        end_s = time.monotonic() + 2.0
        while time.monotonic() < end_s:
            for received in reader.receive():
                if isinstance(received.event, Snapshot):
                    return [call.tool for call in received.event.tool_calls]
            reader.wait(0.05)
    return None


def test_the_control_process_knows_the_call_whoever_of_the_two_is_killed(place):
    control = ("mars_sglang.control", "--address", f"ipc://{place}")
    with process(*control) as first_control:
        with sidecar(place) as first:
            until(lambda: os.path.exists(f"{place}/tools.sock"), "the socket of tools")
            running = in_a_call(place)
            until(lambda: known_calls(place) == ["bash"], "the call to be known")
            first.kill()
            first.wait()
        with sidecar(place):
            # Told by both for a moment, until the control process misses the first.
            until(lambda: known_calls(place) == ["bash"] * 2, "the second sidecar to take it over")
            until(lambda: known_calls(place) == ["bash"], "the first one to be forgotten")
            first_control.kill()
            first_control.wait()
            with process(*control):
                until(lambda: known_calls(place) == ["bash"], "the new control process to be told")
                end(running)
                until(lambda: known_calls(place) == [], "the end of the call")


def test_a_call_that_vanished_while_no_sidecar_was_there_failed(place):
    with Events(place) as events:
        with sidecar(place) as first:
            events.wait_for(ExecutorLoad)
            running = in_a_call(place)
            until(lambda: os.path.exists(f"{place}/tools.state"), "the call to be kept")
            first.kill()
            first.wait()
        running.kill()
        running.communicate()
        with sidecar(place):
            (failed,) = events.wait_for(ToolFailed)
            assert failed.error == "its process vanished"


def test_a_second_one_at_the_same_place_leaves_the_first_alone(place):
    with Events(place) as events, sidecar(place) as first:
        events.wait_for(ExecutorLoad)
        with sidecar(place) as second:
            assert second.wait(20) == TAKEN
            assert "another sidecar listens" in second.stderr.read()
        assert first.poll() is None


def test_two_at_the_default_place_report_both_and_the_second_takes_over(place):
    address = ("--control", f"ipc://{place}")
    with Events(place) as events, process("mars_sglang.sidecar", *address, XDG_RUNTIME_DIR=place) as first:
        events.wait_for(ExecutorLoad)
        with process("mars_sglang.sidecar", *address, XDG_RUNTIME_DIR=place):
            until(lambda: len({load.source for load in events.of(ExecutorLoad)}) == 2, "both to report")
            first.terminate()
            assert first.wait(5) == 0
            default = f"{place}/mars-sglang/default"
            until(lambda: os.path.exists(f"{default}/tools.sock"), "the second to listen")
            end(in_a_call(default))
            events.wait_for(ToolEnded)


def test_it_ends_with_its_parent(place):
    parent = subprocess.Popen(["sleep", "60"])
    with Events(place) as events, sidecar(place, "--parent-pid", str(parent.pid)) as running:
        events.wait_for(ExecutorLoad)
        parent.kill()
        parent.wait()
        assert running.wait(5) == 0
        events.wait_for(SourceStopped)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--interval-ms", "9"], "accepted: 10 to 10000 milliseconds"),
        (["--interval-ms", "10001"], "accepted: 10 to 10000 milliseconds"),
        (["--interval-ms", "x"], "accepted: 10 to 10000 milliseconds"),
        (["--cores", "3-1"], "accepted: numbers and ranges"),
        (["--slots", "0"], "accepted: a whole number from 1"),
        (["--name", "a b"], "accepted: 1 to 64 letters"),
        (["--cgroup", "/no/such/group"], "no cgroup '/no/such/group'"),
        (["--listen", "tcp://127.0.0.1:22001"], "needs CURVE keys"),
        (["--control", "http://x"], "ipc:///FOLDER"),
        (["--listen", "ipc:///"], ""),
    ],
)
def test_what_cannot_be_done_as_asked_is_named(place, arguments, said):
    with sidecar(place, *arguments) as running:
        assert running.wait(20) == WRONG_ARGUMENTS
        assert said in running.stderr.read()


def test_others_may_not_enter_its_folder(place):
    os.chmod(place, 0o755)
    with sidecar(place) as running:
        assert running.wait(20) == WRONG_ARGUMENTS
        assert "chmod 700" in running.stderr.read()


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
