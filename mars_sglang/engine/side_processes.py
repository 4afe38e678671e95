"""Processes started beside the server: the control process, and a sidecar where asked for."""

import atexit
import logging
import os
import subprocess
import sys
import time

from mars_sglang.config import StreamConfig
from mars_sglang.stream.address import Address

logger = logging.getLogger(__name__)

#: A process that lived this long was in order, for what cannot start ends at once; the next start comes at once again.
_SETTLED_S = 2.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 10.0


class SideProcess:
    """One process, started again when it ends. Serving never waits for it.

    Args:
        name: for the log.
        module: what to run, as ``python -m module``.
        arguments: of its command line; it is also told our process id, and ends with us.
    """

    def __init__(self, name: str, module: str, arguments: list[str]):
        self.name = name
        self.starts = 0
        self._command = [sys.executable, "-m", module, *arguments, "--parent-pid", str(os.getpid())]
        self._process: subprocess.Popen | None = None
        self._started_at = 0.0
        self._wait_s = 0.0

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def check(self) -> None:
        """Start the process if it is not there: at once, then after longer and longer waits."""
        real_now = time.monotonic()
        if self._process is not None:
            status = self._process.poll()
            if status is None:
                if real_now - self._started_at > _SETTLED_S:
                    self._wait_s = 0.0
                return
            if self._wait_s == 0.0:
                logger.warning("mars-sglang: the %s process ended with status %s; starting it again", self.name, status)
            if real_now - self._started_at < self._wait_s:
                return
            self._wait_s = min(_LONGEST_WAIT_S, max(_FIRST_WAIT_S, 2 * self._wait_s))
        try:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
            self.starts += 1
        except OSError as error:
            logger.warning("mars-sglang: cannot start the %s process: %s", self.name, error)
            self._wait_s = _LONGEST_WAIT_S
        self._started_at = real_now

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()


def beside(config: StreamConfig) -> list[SideProcess]:
    """The processes that this configuration asks for, started."""
    processes = []
    common = ["--keys", config.keys] if config.keys else []
    if config.spawn:
        arguments = ["--address", config.address, *common]
        if config.record:
            arguments += ["--record", config.record]
        elif (folder := Address.parse(config.address).folder) is not None:
            arguments += ["--predictions", f"{folder}/predictions"]
        processes.append(SideProcess("control", "mars_sglang.control", arguments))
    if config.sidecar:
        processes.append(SideProcess("sidecar", "mars_sglang.sidecar", ["--control", config.address, *common]))
    for process in processes:
        process.check()
        atexit.register(process.stop)
    return processes
