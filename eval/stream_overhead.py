"""What the information stream and admission cost: agents in a closed loop with them, and with ``--mars-control off``.

Each program sends its next turn as soon as the last has ended, so the server is never idle and
each event that is published is paid for at once: the most that the stream can cost. With ``--speed`` at 1 the emulated
GPU is the bottleneck, as in production; at 1000 it takes no time and the host alone is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

import aiohttp

from eval.pairs import paired, summary
from eval.server import EmulatedServer, ServerError

_CALL = '<tool_call>\n{"name": "terminal", "arguments": {"command": "cd /repo && ls -la src tests"}}\n</tool_call>'
_TOOLS = [{"type": "function", "function": {"name": "terminal", "parameters": {"type": "object"}}}]
_RESULT = "total 48 drwxr-xr-x 6 user user 4096 src tests setup.py README.md pyproject.toml " * 8


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.stream_overhead", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="h200-qwen3-coder-30b", metavar="NAME")
    parser.add_argument("--speed", default=1.0, type=float, metavar="X")
    parser.add_argument("--pairs", default=5, type=int, metavar="N", help="measured pairs (%(default)s)")
    parser.add_argument("--programs", default=64, type=int, metavar="N", help="agents at once (%(default)s)")
    parser.add_argument("--turns", default=8, type=int, metavar="N", help="turns of each (%(default)s)")
    parser.add_argument(
        "--admission", default="mars", metavar="NAME", help="off: what the stream alone costs (%(default)s)"
    )
    parser.add_argument("--sidecar", action="store_true", help="run a sidecar beside the server with the stream")
    options = parser.parse_args(argv)
    try:
        return asyncio.run(_measure(options))
    except ServerError as error:
        print(f"stream_overhead: error: {error}", file=sys.stderr)
        return 1


async def _measure(options: argparse.Namespace) -> int:
    common = ["--profile", options.profile, "--speed", str(options.speed), "--scheduler-policy", "mars"]
    common += ["--stream-interval", "16"]
    servers = {
        "off": [*common, "--mars-control", "off", "--mars-admission", "off"],
        "stream": [
            *common,
            "--mars-admission",
            options.admission,
            *(["--mars-sidecar", "on"] if options.sidecar else []),
        ],
    }

    async def measure(server: EmulatedServer, pair: int) -> float:
        return await _turns_per_second(server.base_url, options, pair)

    ratios = await paired(servers, options.pairs, measure, "turns/s")
    print(
        f"with the stream / without: {summary(ratios)} ({options.profile}, speed {options.speed:g}, "
        f"{options.programs} programs of {options.turns} turns at once, admission {options.admission}"
        f"{', sidecar on' if options.sidecar else ''})"
    )
    return 0


async def _turns_per_second(url: str, options: argparse.Namespace, pair: int) -> float:
    """Turns per real second over a whole run."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=600)) as session:
        began = time.perf_counter()
        await asyncio.gather(*(_program(session, url, options, f"{pair}-{i}") for i in range(options.programs)))
        return options.programs * options.turns / (time.perf_counter() - began)


async def _program(session: aiohttp.ClientSession, url: str, options: argparse.Namespace, name: str) -> None:
    messages = [{"role": "user", "content": f"Program {name}. {_RESULT}"}]
    for turn in range(options.turns):
        body = {
            "model": "any",
            "messages": messages,
            "tools": _TOOLS,
            "max_tokens": 100,
            "custom_params": {"emulate_text": _CALL},
            "is_last_step": turn == options.turns - 1,
        }
        headers = {"x-session-id": name}
        async with session.post(url + "/v1/chat/completions", json=body, headers=headers) as response:
            if response.status != 200:
                raise ServerError(f"a turn was answered {response.status}: {(await response.text())[:300]}")
            answer = (await response.json())["choices"][0]["message"]
        calls = answer["tool_calls"]
        messages = [*messages, {"role": "assistant", "content": answer["content"] or "", "tool_calls": calls}]
        messages.append({"role": "tool", "tool_call_id": calls[0]["id"], "content": _RESULT})


if __name__ == "__main__":
    raise SystemExit(main())
