"""Tools queue first come, first served, for a fixed number of slots."""

import asyncio

import pytest

from eval.replay.executor import ToolExecutor, ToolTime
from tests.eval.builders import FakeClock


def play(slots, *seconds):
    async def go():
        clock = FakeClock()
        executor = ToolExecutor(slots, clock)
        return await clock.play(*(executor.run(s) for s in seconds)), executor

    return asyncio.run(go())


def test_one_slot_is_a_line():
    times, executor = play(1, 5, 3, 1)
    assert times == [ToolTime(0, 5), ToolTime(5, 3), ToolTime(8, 1)]
    assert executor.busy_s == 9
    assert executor.running == executor.queued == 0


def test_two_slots_serve_in_order_of_arrival():
    times, _ = play(2, 5, 3, 1, 2)
    assert [t.wait_s for t in times] == [0, 0, 3, 4]


def test_no_limit_never_waits():
    times, _ = play(None, 5, 3, 1)
    assert [t.wait_s for t in times] == [0, 0, 0]


def test_slot_of_a_cancelled_tool_is_not_lost():
    async def go():
        clock = FakeClock()
        executor = ToolExecutor(1, clock)
        first = asyncio.ensure_future(executor.run(5))
        queued = asyncio.ensure_future(executor.run(7))
        for _ in range(3):
            await asyncio.sleep(0)
        assert executor.queued == 1
        queued.cancel()
        first.cancel()
        await asyncio.gather(first, queued, return_exceptions=True)
        return await clock.play(executor.run(2))

    assert asyncio.run(go())[0].run_s == 2


def test_no_slots_at_all_is_refused():
    with pytest.raises(ValueError, match="accepted"):
        ToolExecutor(0, FakeClock())
