"""The sidecar of the host where agents run, beside one server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

from eval import defaults
from eval.agents.cores import listed
from mars_sglang.stream.address import Address
from mars_sglang.tools.endpoint import endpoint

_START_TIMEOUT_S = 30.0


class SidecarError(Exception):
    """A sidecar that did not start; the message ends with its log."""


class Sidecar:
    """``python -m mars_sglang.sidecar`` for some cores, while the ``async with`` block lasts.

    It is no part of what it watches: it runs on the cores of this process.
    """

    def __init__(self, control: str, cores: frozenset[int], folder: Path, log: Path) -> None:
        self.tools = Address.parse(f"ipc://{folder}")
        """Where agents report tool calls."""
        self._log = log
        self._command = [
            sys.executable, "-m", "mars_sglang.sidecar", "--control", control, "--listen", self.tools.text,
            "--cores", listed(cores), "--name", "agents", "--parent-pid", str(os.getpid()),
        ]  # fmt: skip

    async def __aenter__(self) -> Sidecar:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not Path(endpoint(self.tools).removeprefix("ipc://")).exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                await self.__aexit__()
                raise SidecarError(f"the sidecar did not start; its log:\n{self._log.read_text(errors='replace')}")
            await asyncio.sleep(0.1)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(defaults.STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
