"""The gate on an event loop: waiting, going away, aborts, and failing open."""

import asyncio

import pytest

from mars_sglang.core.gate import Gate
from mars_sglang.core.policy import admission_policy
from mars_sglang.engine.admission_gate import AdmissionGate, TurnAborted


def small_gate() -> AdmissionGate:
    return AdmissionGate(Gate(admission_policy("mars"), capacity_tokens=10_000))


async def entered(gate, program, turn_id, tokens, **kwargs):
    task = asyncio.create_task(gate.enter(program, turn_id, tokens, **kwargs))
    for _ in range(5):
        await asyncio.sleep(0)
    return task


def test_a_turn_that_does_not_fit_waits_until_one_leaves():
    async def scenario():
        gate = small_gate()
        assert (await entered(gate, "a", "a1", 7000)).done()
        held = await entered(gate, "b", "b1", 7000)
        assert not held.done()
        gate.leave("a", "a1", 7200, last=True)
        await asyncio.wait_for(held, 5)

    asyncio.run(scenario())


def test_a_cancelled_wait_gives_its_place_back():
    async def scenario():
        gate = small_gate()
        await entered(gate, "a", "a1", 7000)
        gone = await entered(gate, "b", "b1", 7000)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        gate.leave("b", "b1")
        assert gate.gate.snapshot().waiting == 0

    asyncio.run(scenario())


def test_a_client_that_disconnects_while_it_waits_is_let_go():
    async def scenario():
        gate = small_gate()
        await entered(gate, "a", "a1", 7000)

        async def is_disconnected():
            return True

        waiting = await entered(gate, "b", "b1", 7000, is_disconnected=is_disconnected)
        with pytest.raises(TurnAborted, match="went away"):
            await asyncio.wait_for(waiting, 5)

    asyncio.run(scenario())


def test_an_abort_reaches_a_waiting_turn():
    async def scenario():
        gate = small_gate()
        await entered(gate, "a", "a1", 7000)
        waiting = await entered(gate, "b", "b1", 7000)
        assert gate.abort("b1") and not gate.abort("unknown")
        with pytest.raises(TurnAborted, match="aborted"):
            await waiting

    asyncio.run(scenario())


def test_a_policy_that_fails_opens_the_gate_for_good():
    class Broken:
        name = "broken"

        def decide(self, admitted, waiting, pool, now_s):
            raise RuntimeError("a bug")

        every_event = False

        def observe_pause(self, seconds):
            pass

    async def scenario():
        gate = AdmissionGate(Gate(Broken(), 10_000))
        await asyncio.wait_for(gate.enter("a", "a1", 7000), 5)
        await asyncio.wait_for(gate.enter("b", "b1", 70_000), 5)
        gate.leave("a", "a1")

    asyncio.run(scenario())


def test_silence_frees_a_place_without_any_event(monkeypatch):
    """The tick notices what no event tells: the program inside has gone quiet."""
    monkeypatch.setenv("MARS_SGLANG_SPEED", "200")

    async def scenario():
        gate = small_gate()
        await gate.enter("a", "a1", 7000)
        gate.leave("a", "a1", 7200)
        await asyncio.wait_for(gate.enter("b", "b1", 7000), 10)
        assert gate.paused() == ("a",)

    asyncio.run(scenario())
