"""What plain chat traffic without ids pays for MARS: SGLang's own ``bench_serving`` under two policies.

Both servers are up during the whole measurement and take turns, so that a drift of the machine's
speed meets both; what counts is the ratio of each pair. With ``--speed`` at 1 the emulated GPU
is the bottleneck, as in production; at 1000 it takes no time and the host alone is measured,
which is the worst case for any work that a policy adds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from eval.pairs import paired, summary
from eval.server import EmulatedServer, ServerError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.plain_chat", description=__doc__.splitlines()[0])
    parser.add_argument("--policies", default="fcfs,mars", metavar="A,B", help="base and candidate (%(default)s)")
    parser.add_argument("--profile", default="h200-qwen3-coder-30b", metavar="NAME")
    parser.add_argument("--speed", default=1.0, type=float, metavar="X")
    parser.add_argument("--pairs", default=5, type=int, metavar="N", help="measured pairs (%(default)s)")
    parser.add_argument("--prompts", default=200, type=int, metavar="N", help="requests per run (%(default)s)")
    parser.add_argument("--input-tokens", default=512, type=int, metavar="N")
    parser.add_argument("--output-tokens", default=64, type=int, metavar="N")
    options = parser.parse_args(argv)
    policies = options.policies.split(",")
    if len(policies) != 2:
        parser.error(f"--policies {options.policies!r}; accepted: two names, base and candidate")
    try:
        return asyncio.run(_measure(options, policies))
    except ServerError as error:
        print(f"plain_chat: error: {error}", file=sys.stderr)
        return 1


async def _measure(options: argparse.Namespace, policies: list[str]) -> int:
    common = ["--profile", options.profile, "--speed", str(options.speed), "--stream-interval", "16"]
    servers = {policy: [*common, "--scheduler-policy", policy] for policy in policies}

    async def measure(server: EmulatedServer, pair: int) -> float:
        return _bench_serving(server.base_url, options, pair)

    ratios = await paired(servers, options.pairs, measure, "output tokens/s")
    print(
        f"{policies[1]} / {policies[0]}: {summary(ratios)} "
        f"({options.profile}, speed {options.speed:g}, {options.prompts} random-ids requests of "
        f"{options.input_tokens} + {options.output_tokens} tokens at once)"
    )
    return 0


def _bench_serving(url: str, options: argparse.Namespace, seed: int) -> float:
    """Output tokens per real second."""
    with tempfile.TemporaryDirectory() as folder:
        return _output_throughput(url, options, seed, Path(folder) / "result.jsonl")


def _output_throughput(url: str, options: argparse.Namespace, seed: int, result: Path) -> float:
    command = [
        sys.executable, "-m", "sglang.bench_serving", "--backend", "sglang", "--base-url", url,
        "--dataset-name", "random-ids", "--num-prompts", str(options.prompts),
        "--random-input-len", str(options.input_tokens), "--random-output-len", str(options.output_tokens),
        "--random-range-ratio", "1.0", "--seed", str(seed + 100), "--flush-cache", "--disable-tqdm",
        "--output-file", str(result),
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode or not result.exists():
        raise ServerError(f"bench_serving failed with {run.returncode}:\n{run.stdout[-1500:]}{run.stderr[-1500:]}")
    return json.loads(result.read_text().splitlines()[-1])["output_throughput"]


if __name__ == "__main__":
    raise SystemExit(main())
