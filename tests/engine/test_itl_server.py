"""Running turns get their tokens while a long prompt is prefilled, on the real server."""

import asyncio

import pytest

pytest.importorskip("sglang")

from eval.itl import stream_beside
from tests.serving import emulated_server

pytestmark = pytest.mark.server

FLAGS = ["--scheduler-policy", "mars", "--mars-admission", "off", "--chunked-prefill-size", "4096"]


def test_a_running_turn_answers_on_beside_a_long_prompt(tmp_path):
    target_ms = 500
    with emulated_server(tmp_path, *FLAGS, "--mars-itl-target-ms", str(target_ms), speed=1.0) as server:
        asyncio.run(stream_beside(server.url, 8_000))
        seen = asyncio.run(stream_beside(server.url, 24_000))
    # Without a target there is one gap as long as the prefill. With one, a token comes at least in each such time.
    assert len(seen.gaps_s) >= seen.ttft_s * 1000 / target_ms / 2 > 2
    assert max(seen.gaps_s) < seen.ttft_s / 2
