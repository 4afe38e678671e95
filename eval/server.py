"""A server that the benchmark starts, and never leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from eval import defaults
from mars_sglang.stream import lock
from mars_sglang.stream.address import Address, AddressError

_TAIL_LINES = 25
_PR_SET_PDEATHSIG = 1
_POLL_S = 0.25


class ServerError(Exception):
    """A server that could not be started; the message ends with the end of its log."""


def measured_arguments(profile: str, speed: float, more: Sequence[str]) -> list[str]:
    """Arguments of a server of which everything is measured that a report shows."""
    return [
        "--profile", profile, "--speed", f"{speed:g}", "--enable-metrics", "--enable-cache-report",
        "--stream-interval", str(defaults.STREAM_INTERVAL), *more,
    ]  # fmt: skip


class EmulatedServer:
    """``mars-sglang emulate`` in a process group of its own. Use :meth:`start`, and :meth:`stop` in a finally."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._arguments = list(arguments)
        self._log = log
        self._port, self._claim = _port(self._arguments)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    async def start(self, timeout_s: float = defaults.START_TIMEOUT_S) -> None:
        """Returns when it is healthy. Raises ServerError if it dies or takes longer than ``timeout_s`` real seconds."""
        command = [_program(), "emulate", "--host", "127.0.0.1", "--port", str(self._port), *self._arguments]
        with self._log.open("wb") as log:
            log.write(f"$ {' '.join(command)}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, preexec_fn=end_with_parent,
            )  # fmt: skip
        deadline = time.monotonic() + timeout_s
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while not await self._healthy(session):
                status = self._process.poll()
                if status is not None:
                    raise ServerError(f"the server ended with status {status} before it was healthy{self._tail()}")
                if time.monotonic() > deadline:
                    raise ServerError(f"the server was not healthy after {timeout_s:.0f} s{self._tail()}")
                await asyncio.sleep(_POLL_S)

    def stop(self) -> None:
        """Ends the whole process group; asks first, kills what is left after a while. Safe to call twice."""
        try:
            self._end()
        finally:
            claim, self._claim = self._claim, None
            if claim is not None:
                os.close(claim)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        # The leader first: told all at once, it takes the end of its children for a crash and waits to diagnose it.
        steps = ((os.kill, signal.SIGTERM, defaults.STOP_TIMEOUT_S), (os.killpg, signal.SIGKILL, 5.0))
        for send, kind, patience in steps:
            with contextlib.suppress(ProcessLookupError):
                send(process.pid, kind)
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                process.poll()
                if not _group_lives(process.pid):
                    return
                time.sleep(0.05)

    def died(self) -> str | None:
        """What to tell if the server is gone, with the end of its log; None while it runs."""
        status = self._process.poll() if self._process else None
        return None if status is None else f"the server ended with status {status}{self._tail()}"

    async def _healthy(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(f"{self.base_url}/health") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    def _tail(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return f"; the end of {self._log}:\n" + "\n".join(f"  {line}" for line in lines)


def _program() -> str:
    beside = Path(sys.executable).with_name("mars-sglang")
    found = str(beside) if beside.exists() else shutil.which("mars-sglang")
    if found is None:
        raise ServerError("mars-sglang is not installed here; run scripts/install.sh eval")
    return found


def _port(arguments: list[str]) -> tuple[int, int | None]:
    """The port, and the descriptor that keeps it from others who look for one; None where it was given."""
    for index, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--port":
            value = value or (arguments[index + 1] if index + 1 < len(arguments) else "")
            if not value.isdigit():
                raise ServerError(f"--server-args: --port {value!r}; accepted: a port number")
            return int(value), None
    try:
        place = Address.default("benchmark")
        place.prepare(None)
    except AddressError as error:
        raise ServerError(f"no place to note the port of a server: {error}") from error
    for port in defaults.PORTS:
        if (claim := _claim(place, port)) is not None:
            return port, claim
    raise ServerError(
        f"no free port from {defaults.PORTS.start} to {defaults.PORTS.stop - 1}; give --server-args '--port N'"
    )


def _claim(place: Address, port: int) -> int | None:
    """A lock, for it takes a server seconds until it has its port. None where the port is taken, or claimed already."""
    try:
        claim = lock.take(place, f"port-{port}")
    except OSError:
        return None
    with socket.socket() as probe:
        # As servers bind: a port whose last connection is still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            os.close(claim)
            return None
    return claim


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def end_with_parent(kind: signal.Signals = signal.SIGTERM) -> None:
    """In a new process, before it is one: if who starts it is killed outright, the kernel tells it. Only Linux does."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, kind)
