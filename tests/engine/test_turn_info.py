"""What is put into a response of which the client asked for it, and into no other."""

import asyncio
from types import SimpleNamespace

import pytest

pytest.importorskip("sglang")

from sglang.srt.managers.io_struct import GenerateReqInput
from sglang.srt.managers.schedule_batch import FINISH_LENGTH

from mars_sglang.config import MarsConfig
from mars_sglang.emulation.in_process import request
from mars_sglang.engine.output_streamer import MarsOutputStreamer
from mars_sglang.engine.resumption import PARTIAL, Resumption
from mars_sglang.engine.server_turns import HostSettings, ServerTurns
from mars_sglang.engine.tokenizer_manager import MarsTokenizerManager
from mars_sglang.engine.turns import KEPT, ReqTurn
from mars_sglang.engine.wire import TURN_KEY, take

ASKED = {"x-mars-info": "1"}
SENT = {"queue_wait_s": 1.5, "queue_reason": KEPT, "outcome": PARTIAL, "reused_tokens": 60, "recomputed_tokens": 20}


def answer(**meta) -> dict:
    """The end of an answer as SGLang makes it."""
    counts = {"prompt_tokens": 100, "completion_tokens": 20, "cached_tokens": 70, "num_retractions": 2}
    return {"text": "Done.", "meta_info": {**counts, "finish_reason": {"type": "stop"}, **meta}}


@pytest.fixture
def turns() -> ServerTurns:
    return ServerTurns(MarsConfig("mars", "off"), HostSettings())


def heard(turns: ServerTurns, *responses, headers=ASKED, **body):
    """The responses of a turn after they were heard."""

    async def scenario():
        obj = GenerateReqInput(input_ids=[1] * 100, sampling_params={})
        turn = turns.arrive(obj, {"program_id": "p", **body}, headers)
        await turns.admit(turn, None)
        turns.mark(obj, turn)
        assert take(obj.sampling_params["custom_params"], 0.0).info == turn.info
        for response in responses:
            await turns.hear(turn, response)
        turns.end(turn)
        return responses

    return asyncio.run(scenario())


def test_the_last_response_says_what_both_processes_know(turns):
    heard(turns, answer())
    piece, end = heard(turns, answer(finish_reason=None), answer(dp_rank=1, **{TURN_KEY: SENT}))
    assert TURN_KEY not in piece["meta_info"]
    assert end["meta_info"][TURN_KEY] == {
        "program": "p",
        "continuation": True,
        "cached_tokens": 70,
        **SENT,
        "gate_wait_s": 0.0,
        "gate_reason": None,
        "retractions": 2,
        "dp_rank": 1,
    }


def test_what_the_scheduler_does_not_say_is_null(turns):
    (end,) = heard(turns, answer())
    told = end["meta_info"][TURN_KEY]
    assert [told[field] for field in SENT] == [None] * len(SENT)
    assert told["continuation"] is False and told["dp_rank"] is None


def test_each_of_several_answers_says_its_own(turns):
    (both,) = heard(turns, [answer(**{TURN_KEY: SENT}), answer(num_retractions=0)])
    assert [one["meta_info"][TURN_KEY]["retractions"] for one in both] == [2, 0]


@pytest.mark.parametrize(
    ("headers", "body", "asked"),
    [
        ({}, {"return_meta_info": True}, True),
        ({}, {}, False),
        ({}, {"return_meta_info": "true"}, False),
        ({"x-mars-info": "0"}, {}, False),
    ],
)
def test_it_is_added_where_the_client_asked_and_nowhere_else(turns, headers, body, asked):
    (end,) = heard(turns, answer(), headers=headers, **body)
    assert (TURN_KEY in end["meta_info"]) == asked
    assert asked or end == answer()


# -- between the processes


def streamer() -> MarsOutputStreamer:
    settings = ("send_to_detokenizer", "tree_cache", "server_args", "spec_algorithm", "disaggregation_mode")
    return MarsOutputStreamer(
        **dict.fromkeys(settings), is_generation=True, enable_hicache_storage=lambda: False, rust_server=None
    )


def req(rid: str, *, info: bool, finished: bool, started: bool = True):
    made = request(rid, [1, 2, 3])
    made.mars = ReqTurn("p", 0.0, 0.0, True, queued_s=10.0, prefill_s=11.5 if started else None, info=info)
    made.mars.waited_for, made.mars.resumption = KEPT, Resumption(PARTIAL, 60, 20)
    made.finished_reason = FINISH_LENGTH(length=1) if finished else None
    return made


def test_the_scheduler_sends_it_once_with_the_end_of_an_answer_to_one_that_asked():
    goes_on, quiet = req("a", info=True, finished=False), req("b", info=False, finished=True)
    ends, never_ran = req("c", info=True, finished=True), req("d", info=True, finished=True, started=False)
    send = streamer().build_additional_customized_info
    assert send([goes_on, quiet, request("refused", [1])]) == {}
    assert send([goes_on, ends, quiet, never_ran]) == {TURN_KEY: [None, SENT, None, {}]}


def test_the_server_process_takes_it_for_one_request_and_leaves_what_others_send():
    manager = object.__new__(MarsTokenizerManager)
    told = {TURN_KEY: [None, SENT], "theirs": [[7], [8]]}

    metas = [{}, {}]
    for i, meta in enumerate(metas):
        state = SimpleNamespace(customized_info_accumulated={}, customized_info_reported_keys=set())
        manager.update_request_meta_info(meta, state, told, i, None)
        # What is accumulated is cut and joined per token in a stream.
        assert list(state.customized_info_accumulated) == ["theirs"]
    assert metas == [{"theirs": [7]}, {"theirs": [8], TURN_KEY: SENT}]
