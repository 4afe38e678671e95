"""Small programs, records and a clock that does not wait."""

import asyncio
import heapq
import itertools

from eval.replay.record import ProgramRecord, TurnRecord
from eval.replay.replay import RunResult
from eval.report.figures import Run
from eval.workload.program import Program, Turn


def turn(in_tokens=100, out_tokens=10, reuse_tokens=None, tool="ls", tool_s=0.0) -> Turn:
    return Turn(in_tokens, reuse_tokens, out_tokens, tool, tool_s)


def program(*turns: Turn, id="p", tool_tokens=0, system_tokens=0) -> Program:
    return Program(id, "test", turns or (turn(),), tool_tokens, system_tokens)


def turn_record(**fields) -> TurnRecord:
    base = {
        "program": "p",
        "turn": 0,
        "arrival_s": 0.0,
        "sent_s": 0.0,
        "first_token_s": 1.0,
        "last_token_s": 2.0,
        "traced_prompt_tokens": 100,
        "prompt_tokens": 100,
        "cached_tokens": 0,
        "output_tokens": 10,
        "kept_tokens": 0.0,
        "recomputed_tokens": 0,
    }
    return TurnRecord(**base | fields)


def program_record(id="p", arrival_s=0.0, end_s=10.0, turns=None, failure=None) -> ProgramRecord:
    turns = [turn_record(program=id, last_token_s=end_s)] if turns is None else turns
    return ProgramRecord(id, len(turns), arrival_s, None if failure else end_s, failure, failure, turns)


def run(label="fcfs", programs=None, **fields) -> Run:
    policy, _, admission = label.partition("+")
    result = RunResult(programs if programs is not None else [program_record()], **fields.pop("result", {}))
    base = {"label": label, "policy": policy, "admission": admission or None, "result": result}
    return Run(**base | {"wall_s": 1.0, "tool_slots": 4} | fields)


class FakeClock:
    """Time that moves only when :meth:`play` lets it, from sleeper to sleeper."""

    def __init__(self):
        self._now = 0.0
        self._sleepers = []
        self._order = itertools.count()

    def now(self):
        return self._now

    async def sleep(self, seconds):
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), woken))
        await woken

    async def play(self, *work):
        """Runs ``work`` to its end; the results."""
        everything = asyncio.gather(*work)
        while not everything.done():
            for _ in range(20):
                await asyncio.sleep(0)
            if not everything.done() and self._sleepers:
                self._now, _, woken = heapq.heappop(self._sleepers)
                if not woken.done():
                    woken.set_result(None)
        return everything.result()
