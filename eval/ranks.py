"""Two tensor-parallel ranks on one machine decide alike: the decision logs of both, after a run of many turns.

    python -m eval.ranks --turns 10000

Agents that misbehave (:mod:`eval.unruly`), whose tools report at random, against an emulated server with
``--tp-size 2`` and too little memory. The exit status is 1 where a line of the ranks' logs
(:mod:`mars_sglang.engine.decision_log`) differs.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import shlex
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp

from eval.server import EmulatedServer, ServerError
from eval.unruly import KEEPALIVE_S, Habits, UnrulyAgents
from mars_sglang.clock import SPEED_ENV
from mars_sglang.engine.decision_log import FOLDER_ENV
from mars_sglang.tools.channel import Channel

_RANKS = 2
ENVIRONMENT = {
    "SGLANG_CPU_OMP_THREADS_BIND": "0|1",
    # Victims are seldom needed; this asks for some, so that they are compared, too.
    "SGLANG_TEST_RETRACT": "1",
    "SGLANG_TEST_RETRACT_INTERVAL": "100",
}

#: Real seconds without an answered turn, and for both ranks to come to rest at the end.
_STALLED_S, _REST_S = 90.0, 30.0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.ranks", description=__doc__.splitlines()[0])
    parser.add_argument("--turns", default=10_000, type=int, metavar="N", help="answered turns (%(default)s)")
    parser.add_argument("--agents", default=48, type=int, metavar="N", help="at work at a time (%(default)s)")
    parser.add_argument("--pool-tokens", default=9000, type=int, metavar="N", help="KV of the server (%(default)s)")
    parser.add_argument("--seed", default=0, type=int, metavar="N", help="(%(default)s)")
    parser.add_argument("--profile", default="l40s-llama-3.1-8b", metavar="NAME")
    parser.add_argument("--speed", default=16.0, type=float, metavar="X")
    parser.add_argument(
        "--server-args",
        default="--mars-admission off",
        metavar="ARGS",
        help="more arguments for it, as one string (%(default)s: the queue is then long)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the logs there")
    options = parser.parse_args(argv)
    os.environ.update(ENVIRONMENT)
    os.environ[SPEED_ENV] = f"{options.speed:g}"
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("decisions-*.jsonl"):
            old.unlink()
        os.environ[FOLDER_ENV] = str(folder.resolve())
        try:
            agents = asyncio.run(_run(options, folder))
        except ServerError as error:
            print(f"ranks: error: {error}", file=sys.stderr)
            # Ranks that part company often end so, and the logs say where they did.
            logs_agree(folder)
            return 1
        faults = ", ".join(f"{name} {count:,}" for name, count in sorted(agents.faults.items()))
        print(f"answered: {agents.turns:,} turns to their end, of {agents.programs:,} programs; faults: {faults}")
        return 0 if logs_agree(folder) else 1


async def _run(options: argparse.Namespace, folder: Path) -> UnrulyAgents:
    server = EmulatedServer(
        [
            "--profile", options.profile, "--speed", f"{options.speed:g}", "--scheduler-policy", "mars",
            "--tp-size", str(_RANKS), "--max-total-tokens", str(options.pool_tokens), "--chunked-prefill-size", "512",
            "--stream-interval", "16", "--mars-sidecar", "on", *shlex.split(options.server_args),
        ], folder / "server.log",
    )  # fmt: skip
    await server.start()
    try:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S)
        async with aiohttp.ClientSession(server.base_url, connector=connector) as session:
            async with session.get("/mars/state?programs=0") as response:
                tools = Channel((await response.json())["stream"]["address"])
            habits = Habits(
                options.agents, prompt=(30, 300), answer=(2, 15), result=(5, 50), tool_s=3.0, faults=0.1, trouble_s=80.0
            )
            agents = UnrulyAgents(session, habits, options.seed, options.speed, tools)
            playing = asyncio.create_task(agents.play())
            try:
                await _until(options.turns, agents, server, playing)
                agents.stop()
                if not (await asyncio.wait({playing}, timeout=_STALLED_S))[0]:
                    raise ServerError(
                        f"{agents.under_way} turns had not ended {_STALLED_S:.0f} s after the last was sent"
                    )
                playing.result()
            finally:
                playing.cancel()
                await asyncio.gather(playing, return_exceptions=True)
                tools.close()
            await _at_rest(folder)
            if died := server.died():
                raise ServerError(died)
            return agents
    finally:
        server.stop()


async def _until(turns: int, agents: UnrulyAgents, server: EmulatedServer, playing: asyncio.Task) -> None:
    seen, changed = -1, time.monotonic()
    while agents.turns < turns:
        if agents.turns != seen:
            seen, changed = agents.turns, time.monotonic()
        if died := server.died():
            raise ServerError(died)
        if playing.done():
            playing.result()
        if time.monotonic() - changed > _STALLED_S:
            raise ServerError(f"the agents do not get on: {agents.turns} turns answered, {agents.under_way} under way")
        await asyncio.sleep(0.2)


async def _at_rest(folder: Path) -> None:
    """Until both logs are as long as each other and stay so for a second; then whatever they are is compared."""
    deadline, before = time.monotonic() + _REST_S, None
    while time.monotonic() < deadline:
        sizes = [path.stat().st_size for path in _logs(folder)]
        if sizes == before and len(set(sizes)) == 1:
            return
        before = sizes
        await asyncio.sleep(1.0)


def logs_agree(folder: Path) -> bool:
    """Whether the folder has a log of each rank, and all say the same. Prints what differs, or what was compared."""
    logs = _logs(folder)
    if len(logs) != _RANKS:
        print(f"OFF: {len(logs)} decision logs in {folder} of {_RANKS} ranks")
        return False
    kinds: Counter[str] = Counter()
    with logs[0].open(encoding="utf-8") as one, logs[1].open(encoding="utf-8") as other:
        for number, (first, second) in enumerate(itertools.zip_longest(one, other), 1):
            if first != second:
                print(f"OFF: the ranks differ in line {number}:\n  {logs[0].name}: {first}  {logs[1].name}: {second}")
                return False
            kinds[json.loads(first)[0]] += 1
    if not kinds:
        print("OFF: nothing was decided, so nothing was compared")
        return False
    print(f"decisions: {', '.join(f'{kind} {count:,}' for kind, count in sorted(kinds.items()))}")
    print(f"both ranks decided the same {kinds.total():,} times")
    return True


def _logs(folder: Path) -> list[Path]:
    return sorted(folder.glob("decisions-*.jsonl"))


if __name__ == "__main__":
    raise SystemExit(main())
