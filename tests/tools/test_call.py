"""``mars_sglang.tool_call`` against a socket that the test binds, and against nobody."""

import asyncio
import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

import mars_sglang
from mars_sglang.sidecar.listener import Listener
from mars_sglang.sidecar.reports import decode
from mars_sglang.stream.address import Address
from mars_sglang.stream.events import ToolEnded, ToolFailed
from mars_sglang.stream.keys import Keys, make_keys
from mars_sglang.tools import channel as channels
from mars_sglang.tools.messages import CallQueued, CallStarted
from tests.sidecar.running import folder, until


class Reports:
    """All that tools reported to a listener."""

    def __init__(self, address: str, keys: Keys | None = None):
        self._listener = Listener(Address.parse(address), keys)
        self.all: list = []

    def wait_for(self, count: int) -> list:
        def read() -> bool:
            while self._listener.wait(0.01) and (frames := self._listener.receive()) is not None:
                self.all.append(decode(frames))
            return len(self.all) >= count

        until(read, f"{count} reports, not {len(self.all)}")
        return self.all

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def place(monkeypatch) -> Iterator[str]:
    with folder() as path:
        monkeypatch.setenv("MARS_SGLANG_TOOLS", f"ipc://{path}")
        monkeypatch.delenv("MARS_SGLANG_API_KEY", raising=False)
        monkeypatch.setattr(channels, "_channel", None)
        yield path
        channels.channel_of_process().close()


@pytest.fixture
def reports(place) -> Iterator[Reports]:
    listener = Reports(f"ipc://{place}")
    yield listener
    listener.close()


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=30
    )


def test_a_block_is_reported_from_start_to_end(reports):
    with mars_sglang.tool_call("p", "bash", "cd /repo && timeout 60 pytest -q", turn="r1"):
        time.sleep(0.02)
    started, ended = reports.wait_for(2)
    assert isinstance(started, CallStarted) and isinstance(ended, ToolEnded)
    assert (started.program, started.tool, started.command, started.turn) == ("p", "bash", "pytest", "r1")
    assert started.call == ended.call and started.process.pid == os.getpid()
    assert ended.duration_s == pytest.approx(ended.time_s - started.time_s) and ended.duration_s >= 0.02


def test_an_exception_is_reported_by_its_type_and_raised_on(reports):
    with pytest.raises(ZeroDivisionError), mars_sglang.tool_call("p", "divide"):
        1 / 0  # noqa: B018
    failed = reports.wait_for(2)[1]
    assert isinstance(failed, ToolFailed) and failed.error == "ZeroDivisionError"


def test_an_asynchronous_block_and_its_cancellation(reports):
    async def tool(name: str, seconds: float) -> None:
        async with mars_sglang.tool_call("p", name):
            await asyncio.sleep(seconds)

    async def agent() -> None:
        slow = asyncio.create_task(tool("slow", 60.0))
        await tool("quick", 0.0)
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)

    asyncio.run(agent())
    ends = {report.tool: report for report in reports.wait_for(4) if not isinstance(report, CallStarted)}
    assert isinstance(ends["quick"], ToolEnded)
    assert ends["slow"].error == "CancelledError"


def test_calls_may_be_nested_and_run_in_threads(reports):
    def work() -> None:
        with mars_sglang.tool_call("p", "outer"), mars_sglang.tool_call("p", "inner"):
            pass

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = reports.wait_for(80)
    assert len({report.call for report in found}) == 40


def test_a_call_that_waits_for_a_slot(reports):
    with mars_sglang.tool_call("p", "bash").queue():
        pass
    queued, started, _ = reports.wait_for(3)
    assert type(queued) is CallQueued and type(started) is CallStarted and queued.call == started.call


def test_programs_are_scoped_like_the_requests_of_their_tenant(reports, monkeypatch):
    def digest(value: str) -> str:
        return hashlib.sha256(value.encode()).hexdigest()[:12]

    with mars_sglang.tool_call("p", "t", api_key="key"):
        pass
    with mars_sglang.tool_call("p", "t", authorization="key"):
        pass
    monkeypatch.setenv("MARS_SGLANG_API_KEY", "other")
    with mars_sglang.tool_call("p", "t"):
        pass
    assert [report.program for report in reports.wait_for(6)[::2]] == [
        f"{digest('Bearer key')}/p",
        f"{digest('key')}/p",
        f"{digest('Bearer other')}/p",
    ]


@pytest.mark.parametrize("program", [None, 7, b"p"])
def test_a_program_that_is_no_string_is_a_mistake(program):
    with pytest.raises(TypeError, match="program of a tool call"):
        mars_sglang.tool_call(program, "t")


@pytest.mark.parametrize("program", ["", "x" * 257, "a\nb"])
def test_a_program_that_no_request_could_have_is_a_mistake(program):
    with pytest.raises(ValueError, match="1 to 256 printable characters"):
        mars_sglang.tool_call(program, "t")


@pytest.mark.parametrize("name", ["", "x" * 1000, "a\nb", "\ud800"])
def test_a_strange_tool_name_of_a_model_stops_no_agent(reports, name):
    with mars_sglang.tool_call("p", name, "\ud800 \x00", turn="\udfff" * 400):
        pass
    assert all(0 < len(report.tool) <= 256 and report.tool.isprintable() for report in reports.wait_for(2))


def test_a_child_after_fork_reports_on_a_socket_of_its_own(reports):
    with mars_sglang.tool_call("p", "parent"):
        pass
    reports.wait_for(2)
    child = os.fork()
    if child == 0:
        with mars_sglang.tool_call("p", "child"):
            pass
        channels.channel_of_process().close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert [report.tool for report in reports.wait_for(4)[2:]] == ["child", "child"]
    with mars_sglang.tool_call("p", "parent"):
        pass
    assert reports.wait_for(6)[5].tool == "parent"


def test_with_nobody_there_an_agent_runs_the_same(place):
    code = """
import threading, time, mars_sglang
start = time.monotonic()
with mars_sglang.tool_call("p", "first"): pass
start = time.monotonic()
for _ in range(100):
    with mars_sglang.tool_call("p", "t"): pass
assert time.monotonic() - start < 0.05 * 100
from mars_sglang.tools.channel import channel_of_process
assert channel_of_process().dropped == 202 and channel_of_process()._socket is None
print("done", flush=True)
"""
    result = run(code)
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")


def test_the_end_of_an_interpreter_does_not_wait_for_a_sidecar_that_was_killed(place):
    listener = Reports(f"ipc://{place}")
    code = """
import sys, time, mars_sglang
with mars_sglang.tool_call("p", "t"): pass
print("one", flush=True)
sys.stdin.readline()
for _ in range(2000):
    with mars_sglang.tool_call("p", "t"): pass
print(time.monotonic(), flush=True)
"""
    running = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert running.stdout.readline() == "one\n"
    listener.wait_for(2)
    # Its file stays, as after a kill.
    os.rename(f"{place}/tools.sock", f"{place}/kept")
    listener.close()
    os.rename(f"{place}/kept", f"{place}/tools.sock")
    out, _ = running.communicate("\n", timeout=20)
    assert time.monotonic() - float(out) < 2.0
    assert running.returncode == 0


def test_a_report_of_the_last_moment_is_not_lost(reports):
    assert run("import mars_sglang\nwith mars_sglang.tool_call('p', 't'): pass").returncode == 0
    assert isinstance(reports.wait_for(2)[1], ToolEnded)


def test_a_listener_that_comes_later_is_found(place):
    with mars_sglang.tool_call("p", "unheard"):
        pass
    listener = Reports(f"ipc://{place}")
    with mars_sglang.tool_call("p", "heard"):
        pass
    assert [report.tool for report in listener.wait_for(2)] == ["heard", "heard"]
    listener.close()


@pytest.mark.parametrize("address", ["nonsense", "tcp://127.0.0.1:22002", "ipc:///proc/no"])
def test_an_address_that_cannot_be_used_is_logged_once_and_nothing_is_raised(address, monkeypatch, caplog):
    monkeypatch.setenv("MARS_SGLANG_TOOLS", address)
    monkeypatch.delenv("MARS_SGLANG_KEYS", raising=False)
    monkeypatch.setattr(channels, "_channel", None)
    for _ in range(3):
        with mars_sglang.tool_call("p", "t"):
            pass
    assert len(caplog.records) == (0 if address.startswith("ipc") else 1)
    channels.channel_of_process().close()


def test_over_tcp_with_keys_and_not_with_others(place, tmp_path):
    make_keys(tmp_path / "ours")
    make_keys(tmp_path / "theirs")
    # They know whom to talk to, and are not known there.
    (tmp_path / "theirs/server.public").write_bytes((tmp_path / "ours/server.public").read_bytes())
    listener = Reports("tcp://127.0.0.1:22003", Keys.load(tmp_path / "ours"))
    code = """
import sys, mars_sglang
with mars_sglang.tool_call("p", sys.argv[1]): sys.stdin.readline()
"""
    agents = {
        name: subprocess.Popen(
            [sys.executable, "-c", code, name],
            stdin=subprocess.PIPE,
            env=os.environ | {"MARS_SGLANG_TOOLS": "tcp://127.0.0.1:22003", "MARS_SGLANG_KEYS": str(tmp_path / name)},
        )
        for name in ("theirs", "ours")
    }
    listener.wait_for(1)
    for agent in agents.values():
        agent.stdin.write(b"\n")
        agent.stdin.close()
    listener.wait_for(2)
    assert [agent.wait(20) for agent in agents.values()] == [0, 0]
    assert [report.tool for report in listener.wait_for(2)] == ["ours", "ours"]
    listener.close()


def test_an_agent_that_asks_for_nothing_loads_nothing():
    result = run("import sys, mars_sglang; print('zmq' in sys.modules, 'msgspec' in sys.modules)")
    assert result.stdout == "False False\n"
    assert "sglang" not in run("import mars_sglang, sys; mars_sglang.tool_call; print([*sys.modules])").stdout.replace(
        "mars_sglang", ""
    )
