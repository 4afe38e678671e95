"""A real control process, and what tests do around one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from mars_sglang.stream.codec import Received
from mars_sglang.stream.subscriber import Subscriber

T = TypeVar("T")

#: Real seconds for anything to happen; nothing takes a tenth of it on an idle machine.
PATIENCE_S = 30.0


def eventually(found: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
    """The first true value that ``found`` returns."""
    deadline = time.monotonic() + patience_s
    while not (value := found()):
        assert time.monotonic() < deadline, f"not within {patience_s} s"
        time.sleep(0.005)
    return value


class RunningControl:
    """``python -m mars_sglang.control`` at an address."""

    def __init__(self, address: str, *arguments: str):
        command = [sys.executable, "-m", "mars_sglang.control", "--address", address, *arguments]
        # A test run that is killed leaves no process behind.
        self.process = subprocess.Popen([*command, "--parent-pid", str(os.getpid())], stderr=subprocess.PIPE, text=True)

    def kill(self) -> None:
        """As the kernel would when memory is short."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=PATIENCE_S)

    def stop(self, with_signal: int = signal.SIGTERM) -> tuple[int, str]:
        """Exit status and what was logged."""
        self.process.send_signal(with_signal)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        _, logged = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, logged

    def __enter__(self) -> "RunningControl":
        return self

    def __exit__(self, *_) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


class Reader:
    """Everything that a subscriber has received."""

    def __init__(self, subscriber: Subscriber):
        self.subscriber = subscriber
        self.received: list[Received] = []

    def poll(self) -> list[Received]:
        self.received += self.subscriber.receive()
        return self.received

    def of(self, *kinds: type) -> list[Received]:
        """Those of some kinds, so far."""
        return [received for received in self.poll() if isinstance(received.event, kinds)]

    def await_one(self, kind: type, suits: Callable = lambda event: True) -> Received:
        """The first of a kind that suits; the rest stays."""
        return eventually(lambda: next((r for r in self.of(kind) if suits(r.event)), None))
