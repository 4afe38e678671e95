"""One cell on the real server with emulated GPU timing, one fresh server per cell."""

from __future__ import annotations

import asyncio
import os
import uuid
from pathlib import Path

from eval.experiment.cell import Cell
from eval.experiment.outcome import Outcome
from eval.replay.endpoint import Endpoint
from eval.replay.replay import ReplayOptions
from eval.replay.timing import ServerClock
from eval.report.figures import Run
from eval.served import replay_served
from eval.server import EmulatedServer, ServerError, measured_arguments
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
    server = EmulatedServer(measured_arguments(cell.point.profile, cell.speed, cell.setup.server_args()), log)
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
    options = ReplayOptions(
        point.arrivals,
        cell.seed,
        point.tool_slots,
        point.max_pause_s,
        session_ids=cell.setup.session_cache,
        says_over=point.says_over,
        run_id=uuid.uuid4().hex[:8],
    )
    async with Endpoint(url, clock.now) as endpoint:
        return await replay_served(
            endpoint, await endpoint.facts(), list(drawn.programs), options, clock,
            label=cell.setup.label, policy=cell.setup.turn, admission=cell.setup.admission, left_out=drawn.left_out,
        )  # fmt: skip
