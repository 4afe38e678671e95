"""Looks at the server and the replayer once in a while, for the time line of a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from eval.replay.endpoint import Endpoint
from eval.replay.record import Sample


@dataclass(frozen=True, slots=True)
class Counts:
    """The replayer's own part of a sample."""

    programs: int
    in_tools: int
    tools_queued: int


async def sample(
    endpoint: Endpoint, now: Callable[[], float], counts: Callable[[], Counts], every_s: float, into: list[Sample]
) -> None:
    """Appends a sample every ``every_s`` real seconds until cancelled. ``now`` is seconds since the run began."""
    while True:
        at_s = now()
        load = await endpoint.load() or {}
        here = counts()
        into.append(
            Sample(
                at_s=at_s,
                kv_used_tokens=load.get("num_used_tokens"),
                kv_share=load.get("token_usage"),
                running=load.get("num_running_reqs"),
                waiting=load.get("num_waiting_reqs"),
                programs=here.programs,
                in_tools=here.in_tools,
                tools_queued=here.tools_queued,
            )
        )
        await asyncio.sleep(every_s)
