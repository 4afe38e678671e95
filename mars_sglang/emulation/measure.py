"""How well this machine keeps the emulated GPU's time under load.

Against a running emulated server::

    python -m mars_sglang.emulation.measure --url http://127.0.0.1:30000 --clients 8 24 48

Each client holds a conversation over ``/v1/chat/completions``, streaming, one turn after the
other without a pause: a system prompt of its own, then per turn a question and an answer.
"""

import argparse
import asyncio
import json
import random
import sys
import time

import aiohttp

from mars_sglang.emulation.words import WORDS

QUESTION_WORDS = 200
TURNS = 4


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mars_sglang.emulation.measure", description=__doc__.split("\n")[0])
    parser.add_argument("--url", default="http://127.0.0.1:30000", help="of the server (%(default)s)")
    parser.add_argument("--clients", type=int, nargs="+", default=[24], help="at once, one run per number (24)")
    parser.add_argument("--seconds", type=float, default=15.0, help="of real time per run (%(default)s)")
    parser.add_argument("--prompt-tokens", type=int, default=3000, help="of each system prompt (%(default)s)")
    parser.add_argument("--output-tokens", type=int, default=200, help="of each answer (%(default)s)")
    own = parser.parse_args()
    try:
        print(
            "clients  speed  turns  decode: steps  step ms  host ms  error median    p90  |  prefill: steps  "
            "error median    p90  |  real/intended"
        )
        for clients in own.clients:
            turns, report = asyncio.run(_run(own, clients))
            print(_line(clients, turns, report), flush=True)
    except (aiohttp.ClientError, KeyError) as error:
        print(f"{own.url}: {error!r}; is it a server of mars-sglang emulate?", file=sys.stderr)
        return 1
    return 0


async def _run(own: argparse.Namespace, clients: int) -> tuple[int, dict]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(own.url, connector=connector, timeout=aiohttp.ClientTimeout()) as session:
        async with session.post("/flush_cache") as response:
            response.raise_for_status()
        until_s = time.monotonic() + own.seconds
        done = await asyncio.gather(*(_converse(session, own, number, until_s) for number in range(clients)))
        async with session.get("/server_info") as response:
            return sum(done), (await response.json())["internal_states"][0]["emulation"]


async def _converse(session: aiohttp.ClientSession, own: argparse.Namespace, number: int, until_s: float) -> int:
    choose = random.Random(number)
    messages: list[dict] = []
    turns = 0
    while time.monotonic() < until_s:
        if turns % TURNS == 0:
            messages = [{"role": "system", "content": " ".join(choose.choices(WORDS, k=own.prompt_tokens))}]
        messages.append({"role": "user", "content": " ".join(choose.choices(WORDS, k=QUESTION_WORDS))})
        body = {"model": "any", "messages": messages, "max_tokens": own.output_tokens, "ignore_eos": True}
        answer = []
        async with session.post("/v1/chat/completions", json=body | {"stream": True}) as response:
            response.raise_for_status()
            async for line in response.content:
                if line.startswith(b"data: {"):
                    answer += [c["delta"].get("content") or "" for c in json.loads(line[6:]).get("choices", ())]
        messages.append({"role": "assistant", "content": "".join(answer)})
        turns += 1
    return turns


def _line(clients: int, turns: int, report: dict) -> str:
    prefill, decode = report["prefill"], report["decode"]
    step_ms = 1000 * decode["intended_s"] / max(decode["steps"], 1)
    return (
        f"{clients:7}  {report['speed']:5g}  {turns:5}  {decode['steps']:13}  {step_ms:7.1f}  "
        f"{decode['host_ms_per_step'] or 0:7.1f}  {decode['error_median'] or 0:12.1%}  {decode['error_p90'] or 0:5.0%}"
        f"  |  {prefill['steps']:14}  {prefill['error_median'] or 0:12.1%}  {prefill['error_p90'] or 0:5.0%}"
        f"  |  {report['real_s'] / max(report['intended_s'], 1e-9):13.3f}"
    )


if __name__ == "__main__":
    sys.exit(main())
