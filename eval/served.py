"""Programs replayed on a server that runs, with what it says of itself before and after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from eval.replay.endpoint import Endpoint, EndpointError, ServerFacts
from eval.replay.record import ProgramRecord
from eval.replay.replay import Replay, ReplayOptions
from eval.replay.ruler import measure
from eval.replay.timing import Clock
from eval.report.figures import Run
from eval.workload.program import Program


async def replay_served(
    endpoint: Endpoint, facts: ServerFacts, programs: list[Program], options: ReplayOptions, clock: Clock, *,
    label: str, policy: str, admission: str | None, left_out: dict[str, int],
    ended: Callable[[ProgramRecord], None] = lambda _: None, stop: asyncio.Event | None = None,
) -> Run:  # fmt: skip
    """Measures the server's tokenizer, empties its cache, replays; arguments as in :class:`Replay`, :class:`Run`.

    A server that dies meanwhile fails its programs, which say so; its last words on itself are then missing.

    Raises:
        EndpointError: it cannot be used before the replay begins.
    """
    ruler = await measure(lambda messages: endpoint.count(facts.model, messages), options.seed)
    await endpoint.flush()
    before = await endpoint.retractions()
    began, cpu_began = time.perf_counter(), time.process_time()
    result = await Replay(programs, endpoint, facts.model, ruler, options, clock, ended).run(stop)
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    after = None if before is None else await endpoint.retractions()
    try:
        facts_after = await endpoint.facts()
        emulation, mars = facts_after.emulation, facts_after.mars
    except EndpointError:
        emulation = mars = None
    return Run(
        label=label,
        policy=policy,
        admission=admission,
        result=result,
        tool_slots=options.tool_slots,
        wall_s=wall_s,
        replayer_cpu_s=cpu_s,
        left_out=left_out,
        retractions=None if after is None else after - before,
        emulation_error=emulation,
        mars=mars,
        server=_described(facts),
    )


def _described(facts: ServerFacts) -> dict[str, Any]:
    return {
        "model": facts.model,
        "sglang": facts.version,
        "context_tokens": facts.context_tokens,
        "kv_tokens": facts.kv_tokens,
    }
