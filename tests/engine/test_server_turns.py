"""The life of a turn in the server process, without the server: what the stream is told of how a program ended."""

import asyncio

import pytest

pytest.importorskip("sglang")

from sglang.srt.managers.io_struct import GenerateReqInput

from mars_sglang.config import MarsConfig, StreamConfig
from mars_sglang.engine.server_turns import HostSettings, ServerTurns
from mars_sglang.stream.events import AdmissionTicket, ProgramEnded, TurnEnded
from tests.sidecar.running import Events, folder

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
    turns = ServerTurns(MarsConfig(None, "mars", StreamConfig(f"ipc://{place}")), HostSettings())
    turns.open_stream()
    turns.open_gate(capacity_tokens=1000)
    return turns


async def begun(turns: ServerTurns, program: str, **body):
    """A turn that passed the gate."""
    obj = GenerateReqInput(input_ids=[1] * 100, sampling_params={"max_new_tokens": 20})
    turn = turns.arrive(obj, {"program_id": program, **body}, {})
    await turns.admit(turn, None)
    return turn


async def answered(turns: ServerTurns, turn, answer=ANSWER) -> None:
    await turns.hear(turn, answer)
    turns.end(turn)


@pytest.mark.parametrize("reason", ["closed", "deleted"])
def test_a_program_that_is_ended_during_a_turn_is_said_over_after_it_with_that_reason(turns, events, reason):
    async def scenario():
        turn = await begun(turns, "p")
        assert turns.program_over("p", reason)
        assert turns.gate.gate.snapshot().admitted == 1, "the turn goes on"
        await answered(turns, turn)

    asyncio.run(scenario())
    events.wait_for(ProgramEnded)
    told = events.of(TurnEnded, ProgramEnded)
    assert [type(event) for event in told] == [TurnEnded, ProgramEnded]
    assert told[0].last and told[0].finish_reason == "stop"
    assert (told[1].program, told[1].reason) == ("p", reason)
    assert turns.gate.gate.snapshot().admitted == 0


def test_a_program_whose_client_says_last_is_final(turns, events):
    async def scenario():
        await answered(turns, await begun(turns, "p", is_last_step=True))

    asyncio.run(scenario())
    (over,) = events.wait_for(ProgramEnded)
    assert (over.program, over.reason) == ("p", "final")
    assert events.of(TurnEnded)[0].last
    assert turns.gate.gate.snapshot().admitted == 0


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
    assert [ticket.decision for ticket in events.of(AdmissionTicket)][-1] == "released"


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
