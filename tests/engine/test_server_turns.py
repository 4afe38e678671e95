"""The life of a turn in the server process, without the server: who waits for whom, and what the stream is told."""

import asyncio
import contextlib
import time

import pytest

pytest.importorskip("sglang")

from sglang.srt.managers.io_struct import GenerateReqInput

from mars_sglang.config import MarsConfig, StreamConfig
from mars_sglang.engine.refusals import AdmissionRefused
from mars_sglang.engine.server_turns import HostSettings, ServerTurns
from mars_sglang.stream.events import ProgramEnded, TurnEnded, TurnSubmitted
from tests.sidecar.running import Events, folder, process

ANSWER = {
    "text": "Done.",
    "meta_info": {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "cached_tokens": 30,
        "finish_reason": {"type": "stop"},
    },
}


@pytest.fixture
def place():
    with folder() as place:
        yield place


@pytest.fixture
def events(place):
    with Events(place) as events:
        yield events


@pytest.fixture
def turns(place):
    return opened(place, "mars")


def opened(
    place: str, admission: str, capacity_tokens: int = 1000, engine_keeps: bool = False, **settings
) -> ServerTurns:
    turns = ServerTurns(MarsConfig(None, admission, StreamConfig(f"ipc://{place}"), **settings), HostSettings())
    turns.open_stream()
    turns.open_gate(capacity_tokens, engine_keeps=engine_keeps)
    return turns


def arrived(turns: ServerTurns, program: str | None, rid: str | None = None, headers=None, **body):
    """A turn that has not waited yet."""
    obj = GenerateReqInput(input_ids=[1] * 100, sampling_params={"max_new_tokens": 20}, rid=rid)
    return turns.arrive(obj, {"program_id": program, **body}, headers or {})


async def begun(turns: ServerTurns, program: str | None, **body):
    """A turn that passed the gate."""
    turn = arrived(turns, program, **body)
    try:
        await turns.admit(turn, None)
    except BaseException as failure:
        turn.failure = failure
        turns.end(turn)
        raise
    return turn


async def answered(turns: ServerTurns, turn, answer=ANSWER) -> None:
    await turns.hear(turn, answer)
    turns.end(turn)


@pytest.mark.parametrize("reason", ["closed", "deleted"])
def test_a_program_that_is_ended_during_a_turn_is_said_over_after_it_with_that_reason(turns, events, reason):
    async def scenario():
        turn = await begun(turns, "p")
        assert turns.program_over("p", reason)
        assert turns.gate.has_place("p"), "the turn goes on"
        await answered(turns, turn)

    asyncio.run(scenario())
    events.wait_for(ProgramEnded)
    told = events.of(TurnEnded, ProgramEnded)
    assert [type(event) for event in told] == [TurnEnded, ProgramEnded]
    assert told[0].last and told[0].finish_reason == "stop"
    assert (told[1].program, told[1].reason) == ("p", reason)
    assert not turns.gate.has_place("p")


def test_a_program_whose_client_says_last_is_final(turns, events):
    async def scenario():
        await answered(turns, await begun(turns, "p", is_last_step=True))

    asyncio.run(scenario())
    (over,) = events.wait_for(ProgramEnded)
    assert (over.program, over.reason) == ("p", "final")
    assert events.of(TurnEnded)[0].last
    assert not turns.gate.has_place("p")


def test_a_last_turn_is_final_though_the_program_is_deleted_meanwhile(turns, events):
    async def scenario():
        turn = await begun(turns, "p", is_last_step=True)
        turns.program_over("p", "deleted")
        await answered(turns, turn)

    asyncio.run(scenario())
    assert [over.reason for over in events.wait_for(ProgramEnded)] == ["final"]


@pytest.mark.parametrize("reason", ["closed", "deleted"])
def test_between_turns_it_is_over_at_once(turns, events, reason):
    async def scenario():
        await answered(turns, await begun(turns, "p"))
        assert turns.program_over("p", reason)

    asyncio.run(scenario())
    assert [over.reason for over in events.wait_for(ProgramEnded)] == [reason]
    assert not events.of(TurnEnded)[0].last
    assert not turns.gate.has_place("p")


def test_a_program_that_comes_back_before_its_turn_ended_is_not_over(turns, events):
    async def scenario():
        first = await begun(turns, "p")
        turns.program_over("p", "closed")
        second = await begun(turns, "p")
        await answered(turns, first)
        await answered(turns, second)
        await answered(turns, await begun(turns, "q", is_last_step=True))

    asyncio.run(scenario())
    assert [over.program for over in events.wait_for(ProgramEnded)] == ["q"]


def test_nobody_can_end_a_program_that_never_was(turns):
    assert not turns.program_over("p", "deleted")


def test_what_a_turn_took_is_told_once_with_how_it_ended(turns, events):
    async def scenario():
        await answered(turns, await begun(turns, "p"), [ANSWER, ANSWER])
        turns.end(await begun(turns, "q"))

    asyncio.run(scenario())
    both, gone = events.wait_for(TurnEnded, count=2)
    assert (both.prompt_tokens, both.output_tokens, both.cached_tokens, both.finish_reason) == (200, 40, 60, "stop")
    assert (gone.prompt_tokens, gone.output_tokens, gone.finish_reason) == (0, 0, "gone")


# -- with a control process that answers


@pytest.fixture
def control(place):
    with process("mars_sglang.control", "--address", f"ipc://{place}") as running:
        yield running


def asking(place, scenario, admission="window:1", **settings):
    """Run the scenario with turns of a server, in whose window is one program unless told otherwise, once they can
    ask."""

    async def whole():
        turns = opened(place, admission, **settings)
        turns.watch()
        deadline = time.monotonic() + 20
        # Until its first snapshot a server hears of tickets by that alone, and has no decisions to show.
        while turns.gate.open or not turns.stream.report()["snapshots"]:
            assert time.monotonic() < deadline, "the control process never came"
            await asyncio.sleep(0.02)
        try:
            await scenario(turns)
        finally:
            turns.stream = None
            await turns._watching

    asyncio.run(whole())


@contextlib.asynccontextmanager
async def held(turns: ServerTurns, program: str, **body):
    """A turn that was told to wait."""
    task = asyncio.create_task(begun(turns, program, **body))
    before = turns.gate.waiting
    await until(lambda: turns.gate.waiting > before)
    yield task
    task.cancel()  # nothing, where it is done
    await asyncio.wait({task})
    task.cancelled() or task.exception()


async def until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.mark.usefixtures("control")
def test_a_second_program_waits_until_the_first_is_over_and_a_continuation_does_not(place):
    async def scenario(turns):
        first = await begun(turns, "a")
        async with held(turns, "b") as waiting:
            await answered(turns, first)
            second = arrived(turns, "a")
            assert not second.held, "a continuation"
            await turns.admit(second, None)
            without_id = await begun(turns, None)
            assert not waiting.done()
            await answered(turns, without_id)
            await answered(turns, second)
            turns.program_over("a", "deleted")
            await answered(turns, await waiting)
        assert turns.gate.has_place("b") and not turns.gate.has_place("a")
        assert [ticket.decision for ticket in turns.stream.decisions] == ["admitted", "released", "admitted"]
        assert turns.gate.counters.unasked == 0

    asking(place, scenario)


@pytest.mark.usefixtures("control")
def test_a_turn_knows_how_long_it_waited_at_the_gate_and_why_it_went_on(place):
    async def scenario(turns):
        first = await begun(turns, "a")
        assert (first.continuation, first.gate_reason) == (False, "nobody else inside") and first.gate_wait_s > 0
        await answered(turns, first)
        second = await begun(turns, "a")
        assert (second.continuation, second.gate_reason, second.gate_wait_s) == (True, None, 0.0)
        await answered(turns, second)

    asking(place, scenario, "mars")


@pytest.mark.usefixtures("control")
def test_one_that_was_let_go_knows_that(place):
    async def scenario(turns):
        await begun(turns, "a")
        async with held(turns, "b") as waiting:
            turns.gate.close()
            let_go = await waiting
        assert let_go.gate_reason == "away" and let_go.gate_wait_s > 0

    asking(place, scenario)


@pytest.mark.usefixtures("control")
@pytest.mark.parametrize("how", ["aborted", "cancelled"])
def test_what_goes_away_at_the_gate_or_fails_behind_it_holds_nobody_back(place, how):
    async def scenario(turns):
        first = await begun(turns, "a")
        async with held(turns, "b", rid="b1") as waiting, held(turns, "c") as next_one:
            if how == "aborted":
                turns.gate.abort("b1")
            else:
                waiting.cancel()
            await asyncio.wait({waiting})
            turns.end(first)  # without an answer
            assert not turns.gate.has_place("a")
            await answered(turns, await next_one)
        await until(lambda: (window := turns.stream.window) and (window.admitted, window.waiting) == (1, 0))
        assert arrived(turns, "a").held, "it has to ask again"

    asking(place, scenario)


@pytest.mark.usefixtures("control")
@pytest.mark.parametrize("engine_keeps", [False, True])
def test_a_second_program_that_does_not_fit_waits_unless_the_engine_keeps_contexts_itself(place, engine_keeps):
    async def scenario(turns):
        await begun(turns, "a")
        # 100 + 2 x 600 each: two are over .95 x 2000, and under .95 x 6000.
        if engine_keeps:
            await begun(turns, "b")
        else:
            async with held(turns, "b"):
                assert not turns.gate.has_place("b")
        assert turns.gate.counters.unasked == 0

    asking(place, scenario, "mars", capacity_tokens=2000, engine_keeps=engine_keeps)


@pytest.mark.usefixtures("control")
def test_deadlines_and_a_full_queue_are_refusals_that_leave_no_trace(place):
    async def scenario(turns):
        first = await begun(turns, "a")
        async with held(turns, "b") as waiting:
            with pytest.raises(AdmissionRefused) as full:
                await begun(turns, "c")
            assert full.value.status_code == 429
            waiting.cancel()
            await asyncio.wait({waiting})
        with pytest.raises(AdmissionRefused) as late:
            await begun(turns, "c", headers={"x-request-deadline-ms": "50"})
        assert late.value.status_code == 503
        await until(lambda: (window := turns.stream.window) and window.waiting == 0)
        await answered(turns, first)

    asking(place, scenario, max_waiting=1)


@pytest.mark.usefixtures("control")
def test_a_second_turn_of_the_same_id_is_refused_and_the_first_goes_on(place):
    async def scenario(turns):
        first = await begun(turns, "a", rid="same-1")
        async with held(turns, "b", rid="same-2") as waiting:
            for rid, program in (("same-1", "a"), ("same-2", "b"), ("same-2", "c")):
                with pytest.raises(ValueError, match=f"Duplicate request ID detected: {rid}"):
                    arrived(turns, program, rid=rid)
            await answered(turns, first)
            turns.program_over("a", "deleted")
            await answered(turns, await waiting)
        turns.end(arrived(turns, "b", rid="same-1"))  # free again

    asking(place, scenario)


@pytest.mark.usefixtures("control")
def test_a_server_whose_loop_stood_still_hears_first_and_asks_then(place):
    async def scenario(turns):
        await begun(turns, "a")
        time.sleep(2.0)  # longer than the silence after which the control process counts as away
        assert arrived(turns, "b").held and turns.gate.counters.unasked == 0

    asking(place, scenario)


def test_what_a_client_says_of_its_program_is_told(turns, events):
    async def scenario():
        headers = {"authorization": "Bearer k", "x-mars-remaining-turns": "7"}
        await begun(turns, "p", headers=headers)
        await begun(turns, "q", headers={"x-mars-tenant": "team"})

    asyncio.run(scenario())
    keyed, named = events.wait_for(TurnSubmitted, count=2)
    assert keyed.remaining_turns == 7 and keyed.program == f"{keyed.tenant}/p" and len(keyed.tenant) == 12
    assert named.remaining_turns is None and (named.program, named.tenant) == ("q", "@team")
