"""The rank that the server process writes on a request, without the server."""

import asyncio

import pytest

pytest.importorskip("sglang")

from sglang.srt.managers.io_struct import GenerateReqInput

from mars_sglang.config import MarsConfig
from mars_sglang.engine import wire
from mars_sglang.engine.server_turns import HostSettings, ServerTurns
from mars_sglang.engine.state_page import state_of


def opened(ranks: int) -> ServerTurns:
    return ServerTurns(MarsConfig("mars", "off", recognise=False), HostSettings(ranks=ranks))


def begun(turns: ServerTurns, program: str | None, prompt_tokens: int = 100, **fields):
    """A turn on its way to the engine, and its request."""
    obj = GenerateReqInput(input_ids=[1] * prompt_tokens, sampling_params={"max_new_tokens": 20}, **fields)
    turn = turns.arrive(obj, {} if program is None else {"program_id": program}, {})
    asyncio.run(turns.admit(turn, None))
    turns.mark(obj, turn)
    return turn, obj


def answered(turns: ServerTurns, turn, prompt_tokens: int = 100) -> None:
    turn.hear({"text": "", "meta_info": {"prompt_tokens": prompt_tokens, "completion_tokens": 20}})
    turns.end(turn)


def paused(obj: GenerateReqInput) -> tuple[str, ...]:
    return wire.take(obj.sampling_params["custom_params"], 0.0).paused


def test_programs_are_spread_and_their_continuations_stay():
    turns = opened(2)
    for expected, program in enumerate("ab"):
        turn, obj = begun(turns, program)
        assert obj.routed_dp_rank == expected
        answered(turns, turn)
    for expected, program in enumerate("ab"):
        turn, obj = begun(turns, program, 150)
        assert obj.routed_dp_rank == expected
        answered(turns, turn, 150)
    assert state_of(turns, 0)["placement"] == {"programs": [1, 1], "load_tokens": [170, 170], "moves": 0}


@pytest.mark.parametrize(("ranks", "program"), [(1, "a"), (2, None)])
def test_with_one_rank_or_without_a_program_the_request_is_left_as_it_was(ranks, program):
    turns = opened(ranks)
    assert begun(turns, program)[1].routed_dp_rank is None


@pytest.mark.parametrize("field", ["routed_dp_rank", "data_parallel_rank"])
def test_a_rank_that_the_client_names_wins_and_what_it_left_behind_goes_first_there(field):
    turns = opened(2)
    turn, obj = begun(turns, "a")
    assert obj.routed_dp_rank == 0
    answered(turns, turn)
    turn, obj = begun(turns, "a", **{field: 1})
    assert obj.routed_dp_rank == 1 and paused(obj) == ()
    answered(turns, turn)
    turn, obj = begun(turns, "b")
    assert obj.routed_dp_rank == 0 and paused(obj) == ("a",)
    answered(turns, turn)
    assert begun(turns, "a")[1].routed_dp_rank == 1


def test_a_program_that_is_over_is_placed_anew():
    turns = opened(2)
    answered(turns, begun(turns, "a")[0])
    answered(turns, begun(turns, "b")[0])
    turns.program_over("a", "deleted")
    answered(turns, begun(turns, "c", 300)[0], 300)
    assert begun(turns, "a")[1].routed_dp_rank == 1
