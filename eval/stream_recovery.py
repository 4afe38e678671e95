"""How soon the engine sees the load of a tool host, and how soon the stream is whole after its processes were killed.

A real server with agents at work: none of their requests may fail. ``visible`` is from the publishing of a
report to its showing in the scheduler's state, the asking included; ``whole`` is from ``kill -9`` of the
control process until a snapshot of the new one tells of a program both what the server and what the engine
know.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

from eval.server import EmulatedServer, ServerError
from mars_sglang.stream.events import Event, ExecutorLoad
from mars_sglang.stream.publisher import Publisher
from mars_sglang.stream.subscriber import Subscriber

_TIMEOUT_S = 30.0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.stream_recovery", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="l40s-llama-3.1-8b", metavar="NAME")
    parser.add_argument("--speed", default=4.0, type=float, metavar="X")
    parser.add_argument("--programs", default=16, type=int, metavar="N", help="agents at work meanwhile (%(default)s)")
    parser.add_argument("--kills", default=10, type=int, metavar="N", help="(%(default)s)")
    parser.add_argument("--reports", default=40, type=int, metavar="N", help="(%(default)s)")
    options = parser.parse_args(argv)
    try:
        return asyncio.run(_measure(options))
    except ServerError as error:
        print(f"stream_recovery: error: {error}", file=sys.stderr)
        return 1


async def _measure(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--profile", options.profile, "--speed", str(options.speed), "--scheduler-policy", "mars"]
        server = EmulatedServer(arguments, Path(folder) / "server.log")
        await server.start()
        timeout = aiohttp.ClientTimeout(total=300)
        try:
            async with aiohttp.ClientSession(server.base_url, timeout=timeout) as session:
                return await _with_agents(session, options)
        finally:
            server.stop()


async def _with_agents(session: aiohttp.ClientSession, options: argparse.Namespace) -> int:
    turns: list[int] = []
    agents = [asyncio.create_task(_agent(session, f"agent-{i}", turns)) for i in range(options.programs)]
    try:
        await _until(lambda: len(turns) > options.programs)
        address = (await _json(session, "/mars/state"))["stream"]["address"]
        visible = await _visible(session, address, options.reports)
        whole = [await _whole_after_a_kill(session, address) for _ in range(options.kills)]
        before = len(turns)
        await _until(lambda: len(turns) > before + options.programs)
        failed = [agent for agent in agents if agent.done()]
    finally:
        for agent in agents:
            agent.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*agents, return_exceptions=True)
    for name, values in (("visible in the engine", visible), ("whole after kill -9", whole)):
        print(f"{name}: median {statistics.median(values):.3f} s, max {max(values):.3f} s of {len(values)}")
    print(f"requests answered: {len(turns)}, failed: {len(failed)} ({options.programs} agents at work)")
    return 1 if failed else 0


async def _visible(session: aiohttp.ClientSession, address: str, reports: int) -> list[float]:
    delays = []
    with Publisher(address, "sidecar") as publisher:
        for number in range(1, reports + 1):
            began = time.perf_counter()
            publisher.publish(ExecutorLoad, executor="measured", cores=64.0, cores_used=float(number))

            async def seen(number: int = number) -> bool:
                executors = (await _json(session, "/server_info"))["internal_states"][0]["mars"]["executors"]
                return executors.get("measured", {}).get("cores_used") == number

            while not await seen():
                if time.perf_counter() - began > _TIMEOUT_S:
                    raise ServerError("a report never showed in the engine")
            delays.append(time.perf_counter() - began)
    return delays


async def _whole_after_a_kill(session: aiohttp.ClientSession, address: str) -> float:
    control = (await _json(session, "/mars/state"))["stream"]["processes"]["control"]["pid"]
    os.kill(control, signal.SIGKILL)
    began = time.perf_counter()
    while not await asyncio.to_thread(_is_whole, address):
        if time.perf_counter() - began > _TIMEOUT_S:
            raise ServerError("the stream was never whole again")
    took = time.perf_counter() - began
    # One that dies again and again is started less and less often, which is not measured here.
    await asyncio.sleep(2.5)
    return took


def _is_whole(address: str) -> bool:
    """Whether a fresh reader's snapshot has a program with turns (the server's word) and pages (the engine's)."""
    with Subscriber(address) as reader:
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            reader.wait(0.02)
            for received in reader.receive():
                if not isinstance(received.event, Event):
                    return any(known.turns and known.retained_pages for known in received.event.programs)
    return False


async def _agent(session: aiohttp.ClientSession, name: str, turns: list[int]) -> None:
    messages = [{"role": "user", "content": f"{name} " + "some words of a task " * 30}]
    while True:
        body = {"model": "any", "messages": messages, "max_tokens": 30, "custom_params": {"emulate_text": "Done."}}
        async with session.post("/v1/chat/completions", json=body, headers={"x-session-id": name}) as response:
            response.raise_for_status()
            answer = (await response.json())["choices"][0]["message"]["content"]
        turns.append(1)
        messages = [messages[0], {"role": "assistant", "content": answer}, {"role": "user", "content": "go on"}]
        await asyncio.sleep(0.05)


async def _json(session: aiohttp.ClientSession, path: str) -> dict:
    async with session.get(path) as response:
        response.raise_for_status()
        return await response.json()


async def _until(done) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not done():
        if time.monotonic() > deadline:
            raise ServerError("the agents do not get on")
        await asyncio.sleep(0.02)


if __name__ == "__main__":
    raise SystemExit(main())
