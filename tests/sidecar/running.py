"""Sidecars as processes of their own, and the end of the stream that they talk to."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import zmq

from mars_sglang.stream.address import Address
from mars_sglang.stream.codec import decode
from mars_sglang.stream.events import Event

DEADLINE_S = 20.0


def until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S):
    """The first true value of the condition."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {deadline_s} s: {what}")


@contextlib.contextmanager
def folder() -> Iterator[str]:
    """A folder with a path short enough for sockets."""
    path = tempfile.mkdtemp(prefix="mars-")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def process(module: str, *arguments: str, **environment: str) -> Iterator[subprocess.Popen]:
    """A process of ours, ended at the end; its standard error is kept."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MARS_SGLANG_")}
    running = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], env=env | environment, stderr=subprocess.PIPE, text=True
    )
    try:
        yield running
    finally:
        if running.poll() is None:
            running.send_signal(signal.SIGTERM)
        try:
            running.wait(5)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
        running.stderr.close()


def sidecar(place: str, *arguments: str, **environment: str):
    """A sidecar whose control process and tools are both in this folder."""
    address = f"ipc://{place}"
    return process(
        "mars_sglang.sidecar", "--control", address, "--listen", address, "--name", "host-a", *arguments, **environment
    )


class Events:
    """A PULL socket where the control process would be, and all that came."""

    def __init__(self, place: str):
        address = Address.parse(f"ipc://{place}")
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.linger = 0
        address.bind(self._socket, address.events, None)
        self.all: list[Event] = []

    def read(self) -> list[Event]:
        while not self._socket.closed and self._socket.poll(0):
            self.all.append(decode(self._socket.recv()))
        return self.all

    def of(self, *kinds: type[Event]) -> list:
        return [event for event in self.read() if isinstance(event, kinds)]

    def wait_for(self, *kinds: type[Event], count: int = 1) -> list:
        names = "/".join(kind.__name__ for kind in kinds)
        return until(lambda: len(found := self.of(*kinds)) >= count and found, f"{count} {names}")

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *_) -> None:
        self._socket.close(0)
        self._context.term()


@contextlib.contextmanager
def tool_socket(place: str) -> Iterator[zmq.Socket]:
    """A sender of tool events that is not our library."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.linger = 0
        socket.connect(f"ipc://{place}/tools.sock")
        yield socket
