"""What ``--mars-itl-target-ms`` does: time between two tokens of a turn that runs, while a long prompt is prefilled.

    python -m eval.itl --targets off 400 200 100

For each target an emulated server, one turn that streams an answer, and beside it a cold prompt. Times are of the
emulated GPU, at the speed of real time, with what the machine adds to them.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np

from eval.server import EmulatedServer, ServerError

OFF = "off"

#: Tokens that the turn answers with before the long prompt is sent.
_AHEAD = 20


@dataclass(frozen=True)
class Beside:
    """What the running turn saw while the long prompt was prefilled, in seconds."""

    gaps_s: tuple[float, ...]
    """Between two tokens of the running turn, of those that end after the prompt was sent and before its answer."""
    ttft_s: float
    """Of the long prompt."""


async def stream_beside(url: str, prompt_tokens: int) -> Beside:
    """One turn streams; a cold prompt comes beside it.

    Raises:
        aiohttp.ClientError: a request failed.
    """
    async with aiohttp.ClientSession(url, timeout=aiohttp.ClientTimeout(total=600)) as session:
        times: list[float] = []
        running = _tokens(session, [7] * 50, 100_000)
        async for at_s in running:
            times.append(at_s)
            if len(times) == _AHEAD:
                break

        async def listen() -> None:
            async for at_s in running:
                times.append(at_s)

        sent_s = time.monotonic()
        listening = asyncio.create_task(listen())
        try:
            first_s = await anext(_tokens(session, [11 + i % 997 for i in range(prompt_tokens)], 1))
            # The token that waited for the prefill has to come, too.
            await asyncio.sleep(0.5)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
    gaps = [later - at for at, later in itertools.pairwise(times) if later > sent_s and at < first_s]
    return Beside(tuple(gaps), first_s - sent_s)


async def _tokens(session: aiohttp.ClientSession, prompt: list[int], count: int) -> AsyncIterator[float]:
    """When each token of the answer came, by the monotonic clock."""
    parameters = {"max_new_tokens": count, "ignore_eos": True}
    body = {"input_ids": prompt, "sampling_params": parameters, "stream": True}
    async with session.post("/generate", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if line.startswith(b"data: {"):
                yield time.monotonic()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.itl", description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", default=[OFF, "400", "200", "100"], metavar="MS")
    parser.add_argument("--prompt-tokens", default=60_000, type=int, metavar="N", help="(%(default)s)")
    parser.add_argument("--profile", default="h100-qwen3-coder-30b", metavar="NAME", help="(%(default)s)")
    options = parser.parse_args(argv)
    print("| target, ms | longest time between two tokens, ms | 99th percentile | prompt's time to first token, s |")
    print("| --- | --- | --- | --- |")
    for target in options.targets:
        arguments = ["--profile", options.profile, "--scheduler-policy", "mars", "--mars-admission", "off"]
        if target != OFF:
            arguments += ["--mars-itl-target-ms", target]
        try:
            seen = asyncio.run(_served(arguments, options.prompt_tokens))
        except (ServerError, aiohttp.ClientError) as error:
            print(f"itl: error: {error}", file=sys.stderr)
            return 1
        gaps_ms = np.array(seen.gaps_s) * 1000
        print(f"| {target} | {gaps_ms.max():.0f} | {np.percentile(gaps_ms, 99):.0f} | {seen.ttft_s:.2f} |", flush=True)
    return 0


async def _served(arguments: list[str], prompt_tokens: int) -> Beside:
    with tempfile.TemporaryDirectory() as folder:
        server = EmulatedServer(arguments, Path(folder) / "server.log")
        try:
            await server.start()
            # A first prompt teaches the server what its prefills take.
            await stream_beside(server.base_url, prompt_tokens // 2)
            return await stream_beside(server.base_url, prompt_tokens)
        finally:
            server.stop()


if __name__ == "__main__":
    sys.exit(main())
