"""One cell on the real server with emulated GPU timing, one fresh server per cell."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from pathlib import Path

from eval import defaults
from eval.experiment.cell import Cell
from eval.experiment.outcome import Outcome
from eval.replay.endpoint import Endpoint
from eval.replay.replay import Replay, ReplayOptions
from eval.replay.ruler import measure
from eval.replay.timing import ServerClock
from eval.report.figures import Run
from eval.server import EmulatedServer, ServerError
from eval.workload.source import Drawn
from mars_sglang.clock import SPEED_ENV


def run_emulated(cell: Cell, drawn: Drawn, log: Path) -> Outcome:
    """Starts a server, replays, stops it. The machine should do nothing else meanwhile.

    Raises:
        ServerError, EndpointError: the server did not start, died, or cannot be used.
    """
    # The project's one clock reads it, here and in the server that inherits it.
    before = os.environ.get(SPEED_ENV)
    os.environ[SPEED_ENV] = f"{cell.speed:g}"
    try:
        return asyncio.run(_served(cell, drawn, log))
    finally:
        if before is None:
            del os.environ[SPEED_ENV]
        else:
            os.environ[SPEED_ENV] = before


async def _served(cell: Cell, drawn: Drawn, log: Path) -> Outcome:
    server = EmulatedServer(
        [
            "--profile", cell.point.profile, "--speed", f"{cell.speed:g}", *cell.setup.server_args(),
            "--enable-metrics", "--enable-cache-report", "--stream-interval", str(defaults.STREAM_INTERVAL),
        ],
        log,
    )  # fmt: skip
    try:
        await server.start()
        run = await _replayed(cell, drawn, server.base_url)
        if death := server.died():
            raise ServerError(death)
        return Outcome(run)
    finally:
        server.stop()


async def _replayed(cell: Cell, drawn: Drawn, url: str) -> Run:
    point, clock = cell.point, ServerClock()
    async with Endpoint(url, clock.now) as endpoint:
        facts = await endpoint.facts()
        ruler = await measure(lambda messages: endpoint.count(facts.model, messages), cell.seed)
        await endpoint.flush()
        evicted = await endpoint.retractions()
        options = ReplayOptions(
            point.arrivals,
            cell.seed,
            point.tool_slots,
            point.max_pause_s,
            session_ids=cell.setup.session_cache,
            says_over=point.says_over,
            run_id=uuid.uuid4().hex[:8],
        )
        began, cpu_began = time.perf_counter(), time.process_time()
        result = await Replay(list(drawn.programs), endpoint, facts.model, ruler, options, clock).run()
        wall_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
        retracted = await endpoint.retractions()
        after = await endpoint.facts()
    return Run(
        label=cell.setup.label,
        policy=cell.setup.turn,
        admission=cell.setup.admission,
        result=result,
        tool_slots=point.tool_slots,
        wall_s=wall_s,
        replayer_cpu_s=cpu_s,
        left_out=drawn.left_out,
        retractions=None if None in (evicted, retracted) else retracted - evicted,
        emulation_error=after.emulation,
        mars=after.mars,
        server={"model": facts.model, "sglang": facts.version, "kv_tokens": facts.kv_tokens},
    )
