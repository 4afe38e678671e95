"""The emulated server for a test module, and what its tests ask of it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from mars_sglang.emulation.words import WORDS
from tests.serving import Server, emulated_server

PROFILE = "h200-qwen3-coder-30b"
MODEL = "Qwen/Qwen3-Coder-30B-A3B-Instruct"


class Asked:
    """A running server, asked in the terms of these tests."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.url = server.url

    def post(self, path: str, **body) -> dict:
        return self._server.post(path, body)

    def chat(self, messages: list[dict], **rest) -> dict:
        return self.post("/v1/chat/completions", model=MODEL, messages=messages, **rest)

    def chat_stream(self, messages: list[dict], **rest) -> list[dict]:
        body = {"model": MODEL, "messages": messages, "stream": True, **rest}
        with requests.post(self.url + "/v1/chat/completions", json=body, stream=True, timeout=60) as response:
            lines = [line for line in response.iter_lines() if line]
        assert lines[-1] == b"data: [DONE]"
        return [json.loads(line.removeprefix(b"data: ")) for line in lines[:-1]]

    def emulation(self) -> dict:
        return self._server.state()["emulation"]


@contextmanager
def running_server(folder: Path, *flags: str, speed: float = 1.0) -> Iterator[Asked]:
    with emulated_server(folder, *flags, profile=PROFILE, speed=speed) as server:
        yield Asked(server)


def text_of(word: str, count: int) -> str:
    """A prompt that begins with ``word`` and goes on for ``count`` tokens."""
    return f"{word} {' '.join(WORDS[n % len(WORDS)] for n in range(count))}"
