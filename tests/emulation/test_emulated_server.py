"""The real server on the emulated GPU, asked over HTTP."""

import json

import pytest
import requests

from mars_sglang.emulation.model_folder import tool_call_text
from mars_sglang.emulation.words import WORDS
from tests.emulation.running_server import MODEL, PROFILE, running_server, text_of

pytestmark = pytest.mark.server

TOOLS = [{"type": "function", "function": {"name": "run", "parameters": {"type": "object"}}}]
ARGUMENTS = {"command": 'grep -n "é" *.py', "timeout": 5}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("server"), speed=2) as server:
        yield server


def test_dictated_count_is_met_and_the_next_turn_finds_it_cached(server):
    messages = [{"role": "user", "content": text_of("count", 300)}]
    first = server.chat(messages, max_tokens=40, ignore_eos=True, temperature=1.0, top_p=0.8)
    assert first["usage"]["completion_tokens"] == 40
    assert first["choices"][0]["finish_reason"] == "length"
    answer = first["choices"][0]["message"]["content"]
    assert len(answer.split()) == 40 and set(answer.split()) <= set(WORDS)

    messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "go on"}]
    second = server.chat(messages, max_tokens=2, ignore_eos=True)
    # The last token that was sampled has no KV yet.
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] == first["usage"]["total_tokens"] - 1


def test_stream_brings_the_same_answer_in_pieces(server):
    messages = [{"role": "user", "content": text_of("stream", 50)}]
    chunks = server.chat_stream(messages, max_tokens=20, ignore_eos=True)
    pieces = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"]]
    assert sum(bool(piece) for piece in pieces) >= 2
    whole = server.chat(messages, max_tokens=20, ignore_eos=True)["choices"][0]["message"]["content"]
    assert "".join(pieces) == whole


def test_dictated_text_comes_back_exactly_and_ends(server):
    text = "  exactly\n\tthis, é and <more>…"
    chat = server.chat([{"role": "user", "content": "hi"}], custom_params={"emulate_text": text})
    assert chat["choices"][0]["message"]["content"] == text
    assert chat["choices"][0]["finish_reason"] == "stop"
    params = {"max_new_tokens": 100, "custom_params": {"emulate_text": text}}
    generated = server.post("/generate", text="hello", sampling_params=params)
    assert generated["text"] == text
    assert generated["meta_info"]["finish_reason"]["type"] == "stop"


def test_dictated_answers_of_one_batch_do_not_mix(server):
    texts = [f"answer {number} {'again ' * number}" for number in range(6)]
    params = [{"max_new_tokens": 100, "custom_params": {"emulate_text": text}} for text in texts]
    answers = server.post("/generate", text=[f"question {n}" for n in range(6)], sampling_params=params)
    assert [answer["text"] for answer in answers] == texts


def test_dictated_tool_call_is_parsed_and_its_turn_is_cached(server):
    messages = [{"role": "user", "content": text_of("tool", 100)}]
    text = "I look.\n" + tool_call_text("run", ARGUMENTS)
    first = server.chat(messages, tools=TOOLS, custom_params={"emulate_text": text})
    choice = first["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    [call] = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "run"
    assert json.loads(call["function"]["arguments"]) == ARGUMENTS

    messages += [
        {"role": "assistant", "content": choice["message"]["content"], "tool_calls": choice["message"]["tool_calls"]},
        {"role": "tool", "tool_call_id": call["id"], "content": "no match"},
    ]
    second = server.chat(messages, tools=TOOLS, max_tokens=2, ignore_eos=True)
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] >= first["usage"]["total_tokens"] - 1


def test_dictated_tool_call_is_parsed_from_a_stream(server):
    text = tool_call_text("run", ARGUMENTS)
    chunks = server.chat_stream([{"role": "user", "content": "go"}], tools=TOOLS, custom_params={"emulate_text": text})
    calls = [
        call["function"]
        for chunk in chunks
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls") or []
    ]
    assert [call["name"] for call in calls if call.get("name")] == ["run"]
    assert json.loads("".join(call.get("arguments") or "" for call in calls)) == ARGUMENTS


def test_server_info_carries_the_report_of_what_was_run(server):
    assert requests.post(server.url + "/flush_cache", timeout=60).status_code == 200
    server.chat([{"role": "user", "content": text_of("report", 400)}], max_tokens=50, ignore_eos=True)
    report = server.emulation()
    assert (report["profile"], report["speed"]) == (PROFILE, 2.0)
    assert report["decode"]["steps"] == 49
    assert report["prefill"]["steps"] == 1
    assert report["steps"] == 50
    assert isinstance(report["ok"], bool) and report["ok"] == ("problem" not in report)
    # However slow the machine, steps are not faster than the GPU by more than what late ones make up.
    assert report["real_s"] > 0.9 * report["intended_s"]


def test_models_are_listed_under_the_real_name(server):
    models = requests.get(server.url + "/v1/models", timeout=60).json()["data"]
    assert models[0]["id"] == MODEL
    assert models[0]["max_model_len"] == 262144
