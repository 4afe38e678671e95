"""An engine that needs no time: every program takes a multiple of its time alone, by setup, seed and load."""

from eval.experiment.alone import Alone, reusable
from eval.experiment.experiment import experiment_of
from eval.experiment.outcome import Outcome
from eval.replay.record import ProgramRecord, recomputed
from eval.replay.replay import RunResult
from eval.report.figures import Run
from mars_sglang.emulation.profiles import load_profile
from tests.eval.builders import turn_record

SLOWNESS = {"fcfs": 4.0, "lpm": 2.0, "mars": 1.5, "mars+mars": 1.0}

SMALL = {
    "title": "A small one",
    "workloads": "generated:30",
    "profiles": "l40s-llama-3.1-8b",
    "loads": [0.1, 0.4],
    "programs": 8,
    "max_turns": 3,
    "setups": ["fcfs", "lpm", "mars+mars"],
    "seeds": [0, 1, 2],
    "reference": False,
}


def small(**changes):
    return experiment_of(SMALL | changes, "small", "small.toml")


def fake_engine(cell, drawn, factor=1.0):
    """Load and seed raise every setup's slowness alike; the emulated engine is 4% slower."""
    slowness = SLOWNESS[cell.setup.label] * (1 + (cell.point.arrivals.rate or 0)) * (1 + 0.1 * cell.seed) * factor
    if cell.engine == "emulated":
        slowness *= 1.04
    alone = Alone(load_profile(cell.point.profile))
    times = cell.point.arrivals.times(len(drawn.programs), cell.seed)
    records = [record(cell, program, at, alone, slowness) for program, at in zip(drawn.programs, times, strict=True)]
    result = RunResult(records)
    run = Run(cell.setup.label, cell.setup.turn, cell.setup.admission, result, cell.point.tool_slots, retractions=2)
    return Outcome(run, {"passes": 10.0})


def record(cell, program, at, alone, slowness):
    ready, rows, before = at, [], None
    for number, turn in enumerate(program.turns):
        kept = reusable(before, turn)
        seconds = slowness * alone.turn_s(turn.in_tokens, kept, turn.out_tokens)
        pause = 0.0 if number == len(program.turns) - 1 else min(turn.tool_s or 0.0, cell.point.max_pause_s) * slowness
        context = before and before.in_tokens + before.out_tokens
        rows.append(
            turn_record(
                program=program.id, turn=number, arrival_s=ready, sent_s=ready, first_token_s=ready + seconds / 2,
                last_token_s=ready + seconds, traced_prompt_tokens=turn.in_tokens, prompt_tokens=turn.in_tokens,
                cached_tokens=kept // 2, output_tokens=turn.out_tokens, kept_tokens=float(kept),
                recomputed_tokens=recomputed(context, kept, turn.in_tokens, kept // 2), tool=turn.tool, tool_s=pause,
            )
        )  # fmt: skip
        ready += seconds + pause
        before = turn
    return ProgramRecord(program.id, len(rows), at, rows[-1].last_token_s, None, None, rows)
