"""Memory and CPU time of a real control process, fed over its socket, against the programs that it was told of."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from eval.cost.control import turn_events
from eval.cost.curve import Curve
from mars_sglang.stream.events import Heartbeat
from mars_sglang.stream.publisher import Publisher
from mars_sglang.stream.subscriber import Subscriber

SIZES = (1, 1_000, 10_000, 100_000)

#: One source may send 5,000 events a second and 20,000 in a burst; several are as servers that share the stream.
_SOURCES = 16
#: Events of a source on their way at a time: less than fits into its queue.
_AT_A_TIME = 5_000
#: Real seconds without a word from the process.
_PATIENCE_S = 60.0


class ControlFailed(RuntimeError):
    """The control process did not start, ended, or went silent."""


def memory_curves(sizes: Sequence[int], runs: int) -> list[Curve]:
    """Resident memory after so many programs, and CPU time per event on the way there.

    Raises:
        ControlFailed: the process did not do its part.
    """
    held = Curve("memory", "Resident memory of the control process", "programs told of", unit="MB")
    spent = Curve("cpu", "CPU time of the control process per event, sockets included", "programs told of")
    resident: dict[int, list[float]] = {size: [] for size in sizes}
    per_event: dict[int, list[float]] = {size: [] for size in sizes if size >= _SOURCES}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            address = f"ipc://{folder}/stream"
            process = stack.enter_context(_control(address, Path(folder) / "log"))
            fed = _Feed(stack, process, address)
            for size in sorted(sizes):
                cpu_s, events = _cpu_s(process.pid), fed.events
                fed.up_to(size)
                resident[size].append(_resident_bytes(process.pid) / 1e6)
                if size in per_event:
                    per_event[size].append((_cpu_s(process.pid) - cpu_s) / (fed.events - events) * 1e6)
    for size in sorted(sizes):
        held.put("resident", size, resident[size])
        if size in per_event:
            spent.put("event", size, per_event[size])
    held.remarks.append(
        "`python -m mars_sglang.control`, told of one whole turn of every program over its socket; each program is "
        "then inside a tool. It remembers 100,000 at most."
    )
    spent.remarks.append(
        "Mean over the four events of a turn, from the size before to this one, with the looks at pauses and the "
        "heartbeats that fell into that time. All CPU time of the process."
    )
    return [held, spent]


class _Feed:
    """Tells a control process of turns, no faster than it takes them in."""

    def __init__(self, stack: ExitStack, process: subprocess.Popen, address: str):
        self._process = process
        self._heartbeats = stack.enter_context(Subscriber(address, [Heartbeat]))
        self._senders = [stack.enter_context(Publisher(address, "server")) for _ in range(_SOURCES)]
        self._programs = 0
        self.events = 0
        self._await_received(0)

    def up_to(self, programs: int) -> None:
        """Until it has taken in a turn of each of so many programs."""
        waiting = 0
        while self._programs < programs:
            sender = self._senders[self._programs % _SOURCES]
            for event in turn_events(f"program-{self._programs}", 0).values():
                sender.publish(msgspec.structs.replace(event, time_s=0.0))
                self.events += 1
                waiting += 1
            self._programs += 1
            if waiting >= _AT_A_TIME * _SOURCES:
                self._await_received(self.events)
                waiting = 0
        self._await_received(self.events)
        if dropped := sum(sender.dropped for sender in self._senders):
            raise ControlFailed(f"{dropped} of {self.events} events found no room on their way")

    def _await_received(self, events: int) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            self._heartbeats.wait(0.05)
            for received in self._heartbeats.receive():
                counters = received.event.counters
                deadline = time.monotonic() + _PATIENCE_S
                if counters.get("flooded") or counters.get("malformed"):
                    raise ControlFailed(f"events were refused: {counters}")
                if counters.get("received", 0) >= events:
                    return
            if self._process.poll() is not None:
                raise ControlFailed(f"the control process ended with status {self._process.returncode}")
        raise ControlFailed(f"no heartbeat that counts {events} events in {_PATIENCE_S:g} s")


@contextmanager
def _control(address: str, log: Path) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", "mars_sglang.control", "--address", address, "--parent-pid", str(os.getpid())]
    with log.open("w") as to:
        process = subprocess.Popen(command, stdout=to, stderr=to)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def _cpu_s(pid: int) -> float:
    """User and system time of all its threads: fields 14 and 15, counted behind the name, which may have blanks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
