"""Two servers measured in turn, so that a drift of the machine's speed meets both; what counts is each pair's ratio."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from eval.server import EmulatedServer


async def paired(
    servers: Mapping[str, Sequence[str]],
    pairs: int,
    measure: Callable[[EmulatedServer, int], Awaitable[float]],
    unit: str,
) -> list[float]:
    """Ratios of the second server to the first, one per pair, printed as they come.

    Args:
        servers: the arguments of ``mars-sglang emulate`` by name; two of them.
        pairs: measured pairs. One more comes first to warm up, and does not count.
        measure: given a server and the number of the pair (-1 for the one that warms up), what it did, in ``unit``.

    Raises:
        ServerError: a server did not start.
    """
    base, candidate = servers
    started: dict[str, EmulatedServer] = {}
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name, arguments in servers.items():
                started[name] = EmulatedServer(arguments, Path(folder) / f"{name}.log")
                await started[name].start()
            for pair in range(-1, pairs):
                order = (base, candidate) if pair % 2 else (candidate, base)
                rates = {name: await measure(started[name], pair) for name in order}
                if pair < 0:
                    continue
                ratios.append(rates[candidate] / rates[base])
                shown = "  ".join(f"{name} {rates[name]:.0f}" for name in servers)
                print(f"pair {pair + 1}: {unit}  {shown}  ratio {ratios[-1]:.4f}", flush=True)
        finally:
            for server in started.values():
                server.stop()
    return ratios


def summary(ratios: Sequence[float]) -> str:
    """Median and range of the ratios."""
    median, low, high = statistics.median(ratios), min(ratios), max(ratios)
    return f"median {median:.4f}, min {low:.4f}, max {high:.4f} over {len(ratios)} pairs"
