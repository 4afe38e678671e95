"""An hour of overload and faults: agents that misbehave against a real server with too little memory for them.

    python -m eval.soak --minutes 60 --out soak-out

SGLang's own checkers of its memory's books are on, and end the server at the first page that is not accounted for. When
the agents have stopped, nothing may run, wait or be held; every page is free or in the cache; and after a flush all are
free. Writes ``soak.json`` and ``server.log``; the exit status is 1 where something was off, which is said.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from eval.server import EmulatedServer, ServerError
from eval.unruly import KEEPALIVE_S, Habits, UnrulyAgents
from mars_sglang.clock import SPEED_ENV
from mars_sglang.tools.channel import Channel

CHECKERS = {"SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1", "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_IDLE": "1"}

#: Real seconds. SGLang brings its gauges up to date every 30 s where nothing runs.
_STALLED_S, _DRAIN_S, _GAUGES_S = 60.0, 120.0, 45.0

#: Counters of the engine that the report shows.
_SHOWN = ("passes", "prefill_passes", "turns_passed_over", "held_back_for_an_aged_turn", "victim_orders", "retractions")
_MORE_SHOWN = ("contexts_reclaimed", "tokens_reclaimed", "turns")

_PROBLEMS_IN_LOG = ("Traceback (most recent call last)", "memory leak detected", "Mem Leak Detected")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", default=60.0, type=float, metavar="M", help="of load, real (%(default)g)")
    parser.add_argument("--out", default=Path("soak-out"), type=Path, metavar="DIR", help="(%(default)s)")
    parser.add_argument("--agents", default=40, type=int, metavar="N", help="at work at a time (%(default)s)")
    parser.add_argument("--pool-tokens", default=12_000, type=int, metavar="N", help="KV of the server (%(default)s)")
    parser.add_argument("--seed", default=0, type=int, metavar="N", help="(%(default)s)")
    parser.add_argument("--profile", default="l40s-llama-3.1-8b", metavar="NAME")
    parser.add_argument("--speed", default=8.0, type=float, metavar="X")
    parser.add_argument(
        "--vary", default={}, type=json.loads, metavar="JSON", help="fields of requests, with values to draw by program"
    )
    parser.add_argument("--server-args", default="", metavar="ARGS", help="more arguments for it, as one string")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ.update(CHECKERS)
    os.environ[SPEED_ENV] = f"{options.speed:g}"
    try:
        report = asyncio.run(_soak(options))
    except ServerError as error:
        print(f"soak: error: {error}", file=sys.stderr)
        return 1
    (options.out / "soak.json").write_text(json.dumps(report, indent=2) + "\n")
    _print(report)
    return 1 if report["problems"] else 0


async def _soak(options: argparse.Namespace) -> dict[str, Any]:
    log = options.out / "server.log"
    server = EmulatedServer(
        [
            "--profile", options.profile, "--speed", f"{options.speed:g}", "--scheduler-policy", "mars",
            "--max-total-tokens", str(options.pool_tokens), "--chunked-prefill-size", "512", "--enable-metrics",
            "--mars-sidecar", "on", *shlex.split(options.server_args),
        ], log,
    )  # fmt: skip
    await server.start()
    try:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S)
        async with aiohttp.ClientSession(server.base_url, connector=connector) as session:
            tools = Channel((await _json(session, "/mars/state?programs=0"))["stream"]["address"])
            habits = Habits(options.agents, vary=options.vary)
            agents = UnrulyAgents(session, habits, options.seed, options.speed, tools)
            try:
                return await _loaded(options, server, session, agents, log)
            finally:
                tools.close()
    finally:
        server.stop()


async def _loaded(
    options: argparse.Namespace,
    server: EmulatedServer,
    session: aiohttp.ClientSession,
    agents: UnrulyAgents,
    log: Path,
) -> dict[str, Any]:
    report: dict[str, Any] = {"minutes": options.minutes, "seed": options.seed, "agents": options.agents}
    problems: list[str] = []
    began = time.monotonic()
    playing = asyncio.create_task(agents.play())
    try:
        await _watch(began + 60 * options.minutes, server, agents, playing, problems)
        agents.stop()
        done, _ = await asyncio.wait({playing}, timeout=_DRAIN_S)
        if not done:
            problems.append(f"{agents.under_way} turns had not ended {_DRAIN_S:.0f} s after the last one was sent")
    finally:
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
    if playing.done() and not playing.cancelled() and playing.exception() is not None:
        raise playing.exception()
    report |= {"turns": agents.turns, "programs": agents.programs}
    report |= {"answers": dict(agents.answers), "faults": dict(agents.faults), "unexpected": agents.unexpected}
    if agents.unexpected:
        problems.append(f"answers that no fault explains: {agents.unexpected[0]}")
    if died := server.died():
        problems.append(died)
    else:
        problems += await _account(session, report)
    lines = log.read_text(errors="replace").splitlines()
    for text in _PROBLEMS_IN_LOG:
        if found := sum(text in line for line in lines):
            problems.append(f"{log} says {found} times: {text}")
    return report | {"problems": problems}


async def _watch(
    until: float, server: EmulatedServer, agents: UnrulyAgents, playing: asyncio.Task, problems: list[str]
) -> None:
    """Returns at the end of the load, or before where it does not get on."""
    turns, changed = -1, time.monotonic()
    while (now := time.monotonic()) < until:
        if agents.turns != turns:
            turns, changed = agents.turns, now
        if now - changed > _STALLED_S:
            problems.append(f"no turn was answered for {_STALLED_S:.0f} s, with {agents.under_way} under way")
        if problems or playing.done() or server.died():
            return
        await asyncio.sleep(0.5)


async def _account(session: aiohttp.ClientSession, report: dict[str, Any]) -> list[str]:
    """What is off once nobody asks for anything any more."""

    def all_told(gauges: dict[str, int]) -> bool:
        return gauges["free"] + gauges["cached"] == gauges["capacity"] and not gauges["running"] + gauges["waiting"]

    problems = []
    gauges = report["pages"] = await _gauges(session, all_told)
    if not all_told(gauges):
        problems.append(f"pages or turns are not accounted for: {gauges}")
    engine = report["engine"] = await _engine(session)
    report["emulation"] = (await _json(session, "/server_info"))["internal_states"][0].get("emulation")
    if engine["retained_tokens"] > gauges["cached"]:
        problems.append(f"{engine['retained_tokens']} tokens are retained, and {gauges['cached']} cached")
    gate = (await _json(session, "/mars/state?programs=0"))["gate"]
    report["gate"] = None if gate is None else {name: gate[name] for name in gate if name != "decisions"}
    if gate is not None and (gate["turns_waiting"] or gate["waiting"]):
        problems.append(f"the gate holds {gate['turns_waiting']} turns of {gate['waiting']} programs")
    async with session.post("/flush_cache") as response:
        if response.status != 200:
            problems.append(f"the flush was refused: {await response.text()}")

    def all_free(gauges: dict[str, int]) -> bool:
        return gauges["free"] == gauges["capacity"]

    flushed = report["pages_after_flush"] = await _gauges(session, all_free)
    if not all_free(flushed):
        problems.append(f"not every page is free after a flush: {flushed}")
    engine = await _engine(session)
    if engine["retained_tokens"] or engine["retained_programs"]:
        problems.append(f"{engine['retained_tokens']} tokens are still retained after a flush")
    return problems


async def _gauges(session: aiohttp.ClientSession, good: Callable[[dict[str, int]], bool]) -> dict[str, int]:
    """KV tokens and turns as ``/metrics`` has them, once they are ``good``, or are not for too long."""
    names = {
        "sglang:max_total_num_tokens": "capacity",
        "sglang:kv_available_tokens": "free",
        "sglang:kv_evictable_tokens": "cached",
        "sglang:num_running_reqs": "running",
        "sglang:num_queue_reqs": "waiting",
    }
    deadline = time.monotonic() + _GAUGES_S
    while True:
        async with session.get("/metrics") as response:
            text = await response.text()
        samples = (line.partition("{") for line in text.splitlines() if 'tp_rank="0"' in line)
        gauges = {names[name]: round(float(rest.rpartition(" ")[2])) for name, _, rest in samples if name in names}
        if good(gauges) or time.monotonic() > deadline:
            return gauges
        await asyncio.sleep(0.5)


async def _engine(session: aiohttp.ClientSession) -> dict[str, Any]:
    return (await _json(session, "/server_info"))["internal_states"][0]["mars"]


async def _json(session: aiohttp.ClientSession, path: str) -> dict:
    async with session.get(path) as response:
        response.raise_for_status()
        return await response.json()


def _print(report: dict[str, Any]) -> None:
    def listed(counts: dict[str, Any]) -> str:
        return ", ".join(f"{name} {counts[name]:,}" for name in counts)

    print(f"{report['minutes']:g} minutes, {report['agents']} agents, seed {report['seed']}")
    print(f"answered: {report['turns']:,} turns to their end, of {report['programs']:,} programs")
    print(f"answers:  {listed(dict(sorted(report['answers'].items())))}")
    print(f"faults:   {listed(dict(sorted(report['faults'].items())))}")
    if engine := report.get("engine"):
        print(f"engine:   {listed({name: engine.get(name, 0) for name in (*_SHOWN, *_MORE_SHOWN)})}")
    for name in ("pages", "pages_after_flush"):
        if name in report:
            print(f"{name.replace('_', ' ')}: {listed(report[name])}")
    for problem in report["problems"]:
        print(f"OFF: {problem}")
    if not report["problems"]:
        print("every page and every turn is accounted for")


if __name__ == "__main__":
    raise SystemExit(main())
