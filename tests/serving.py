"""The real server with an emulated GPU, for tests: started once per module, stopped by its own id."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

START_TIMEOUT_S = 360.0


@dataclass(frozen=True)
class Server:
    """A running server; times in its answers are real seconds."""

    url: str
    log: Path

    def post(self, path: str, body: dict, headers: dict[str, str] | None = None, timeout_s: float = 120.0) -> dict:
        """The parsed answer.

        Raises:
            urllib.error.HTTPError: any other status than 200.
        """
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"content-type": "application/json", **(headers or {})}
        )
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return json.load(response)

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            return json.load(response)

    def chat(self, content: str, max_tokens: int = 8, headers: dict[str, str] | None = None, **body) -> dict:
        body = {"model": "m", "messages": [{"role": "user", "content": content}], **body}
        return self.post("/v1/chat/completions", body | {"max_tokens": max_tokens, "ignore_eos": True}, headers)

    def flush(self) -> None:
        """Empty the cache, once nothing runs: SGLang refuses before."""
        deadline = time.monotonic() + 30
        while True:
            try:
                return urllib.request.urlopen(self.url + "/flush_cache", data=b"", timeout=30).close()
            except urllib.error.HTTPError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def state(self) -> dict:
        """The scheduler's internal state: ``mars`` counters, ``emulation`` report."""
        return self.get("/server_info")["internal_states"][0]


@contextlib.contextmanager
def emulated_server(
    tmp_path: Path, *flags: str, profile: str = "l40s-llama-3.1-8b", speed: float = 8.0, environment=None
) -> Iterator[Server]:
    """Start ``mars-sglang emulate`` with these flags; it ends with the block, and all that it started."""
    port = free_port()
    log = tmp_path / f"server-{port}.log"
    command = [sys.executable, "-m", "mars_sglang.cli", "emulate", "--profile", profile, "--speed", str(speed)]
    command += ["--port", str(port), *flags]
    # SGLang's own checkers of the memory pool's books; a leak ends the server and so the test.
    checks = {"SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1", "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_IDLE": "1"}
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | checks | (environment or {}),
        )
    server = Server(f"http://127.0.0.1:{port}", log)
    try:
        _wait_until_healthy(process, server)
        yield server
        assert process.poll() is None, f"the server died:\n{tail(log)}"
    finally:
        _stop(process)


def _stop(process: subprocess.Popen) -> None:
    """End the server and what it started, by their ids."""
    if process.poll() is not None:
        return
    tree = psutil.Process(process.pid).children(recursive=True)
    # To the first process alone: SGLang takes a signal to its children for a crash and spends 5 s on a diagnosis.
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
    for child in psutil.wait_procs(tree, timeout=5)[1]:
        child.kill()


def tail(log: Path, lines: int = 40) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _wait_until_healthy(process: subprocess.Popen, server: Server) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"the server ended with {process.returncode}:\n{tail(server.log)}")
        try:
            urllib.request.urlopen(server.url + "/health", timeout=5)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"the server was not healthy after {START_TIMEOUT_S:.0f} s:\n{tail(server.log)}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
