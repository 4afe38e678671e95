"""One cell in the simulator."""

from __future__ import annotations

import time

from eval.experiment.cell import Cell
from eval.experiment.outcome import Outcome
from eval.experiment.setups import CLAIRVOYANT
from eval.report.figures import Run
from eval.setup import Setup
from eval.simulator import Simulated, simulate
from eval.workload.source import Drawn
from mars_sglang.emulation.profiles import load_profile


def run_simulated(cell: Cell, drawn: Drawn) -> Outcome:
    """Runs it in this process; the same cell gives the same outcome."""
    began, cpu_began = time.perf_counter(), time.process_time()
    simulated = _simulated(cell, drawn)
    run = Run(
        label=cell.setup.label,
        policy=cell.setup.turn,
        admission=cell.setup.admission,
        result=simulated.result,
        tool_slots=cell.point.tool_slots,
        wall_s=time.perf_counter() - began,
        replayer_cpu_s=time.process_time() - cpu_began,
        left_out=drawn.left_out,
        retractions=simulated.retractions,
    )
    return Outcome(run, dict(simulated.counters))


def _simulated(cell: Cell, drawn: Drawn) -> Simulated:
    point, profile, setup, policies = cell.point, load_profile(cell.point.profile), cell.setup, {}
    if setup.turn == CLAIRVOYANT:
        from eval.bounds import clairvoyant

        turn, admission = clairvoyant(drawn.programs, profile, point.max_pause_s)
        # What a setup names is overridden; its cache and host tier hold.
        setup = Setup(eviction=setup.eviction, session_cache=setup.session_cache, host_ratio=setup.host_ratio)
        policies = {"turn_policy": turn, "admission_policy": admission}
    return simulate(
        drawn.programs, point.arrivals, setup, profile,
        seed=cell.seed, tool_slots=point.tool_slots, max_pause_s=point.max_pause_s,
        says_over=point.says_over, **policies,
    )  # fmt: skip
