"""Starts the emulated server for a test module, and stops it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import requests

from mars_sglang.emulation.words import WORDS

PROFILE = "h200-qwen3-coder-30b"
MODEL = "Qwen/Qwen3-Coder-30B-A3B-Instruct"
START_TIMEOUT_S = 300

_START = "import sys; from mars_sglang.emulation.launch import main; sys.exit(main(sys.argv[1:]))"


def free_port() -> int:
    for port in range(31000, 31100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    pytest.fail("no free port from 31000 to 31099")


class Server:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def post(self, path: str, **body) -> dict:
        response = requests.post(self.url + path, json=body, timeout=60)
        assert response.status_code == 200, response.text
        return response.json()

    def chat(self, messages: list[dict], **rest) -> dict:
        return self.post("/v1/chat/completions", model=MODEL, messages=messages, **rest)

    def chat_stream(self, messages: list[dict], **rest) -> list[dict]:
        body = {"model": MODEL, "messages": messages, "stream": True, **rest}
        with requests.post(self.url + "/v1/chat/completions", json=body, stream=True, timeout=60) as response:
            lines = [line for line in response.iter_lines() if line]
        assert lines[-1] == b"data: [DONE]"
        return [json.loads(line.removeprefix(b"data: ")) for line in lines[:-1]]

    def emulation(self) -> dict:
        info = requests.get(self.url + "/server_info", timeout=60).json()
        return info["internal_states"][0]["emulation"]


@contextmanager
def running_server(log_path: Path, *flags: str) -> Iterator[Server]:
    """A server on a free port, with SGLang's checks of the KV pool on while idle (its default) and while busy."""
    port = free_port()
    command = [sys.executable, "-c", _START, "--profile", PROFILE, "--host", "127.0.0.1", "--port", str(port), *flags]
    environment = os.environ | {"SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1"}
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            wait_until_up(process, log_path)
            yield Server(port)
            assert process.poll() is None, log_path.read_text()[-4000:]
        finally:
            stop(process)


def wait_until_up(process: subprocess.Popen, log_path: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            break
        if "The server is fired up" in log_path.read_text(errors="replace"):
            return
        time.sleep(0.2)
    pytest.fail(f"the server did not start:\n{log_path.read_text(errors='replace')[-4000:]}")


def stop(process: subprocess.Popen) -> None:
    if process.poll() is None:
        tree = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
        for child in psutil.wait_procs(tree, timeout=5)[1]:
            child.kill()


def text_of(word: str, count: int) -> str:
    """A prompt that begins with ``word`` and goes on for ``count`` tokens."""
    return f"{word} {' '.join(WORDS[n % len(WORDS)] for n in range(count))}"
