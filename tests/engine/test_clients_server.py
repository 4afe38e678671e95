"""What known clients send, sent by each protocol's own client library to the real server, and what it makes of it."""

import json
import os
import subprocess
import time
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("sglang")

import anthropic
import openai

from eval.agents.session import AGENTS
from mars_sglang.emulation.model_folder import tool_call_text
from mars_sglang.stream.tenant import scoped
from tests.installed_agents import needs
from tests.serving import emulated_server

pytestmark = pytest.mark.server

KEY = "none"
CLIENTS = tomllib.loads(Path(__file__).with_name("recorded_clients.toml").read_text())["client"]

SYSTEM = "You are an agent. " + "Be careful with what you find. " * 30
TASK = "[[script: look]] Look at this."
PARAMETERS = {"type": "object", "properties": {"command": {"type": "string"}}}
FUNCTION = {"name": "run", "parameters": PARAMETERS}
RESULT = "a.txt"
ANSWER_TOKENS = 200

#: Runs where LiteLLM is installed: it wants another version of ``openai`` than SGLang does.
LITELLM = """
import json, sys
import litellm

order = json.load(sys.stdin)
messages, turns = order["messages"], []
given = {key: order[key] for key in ("model", "api_base", "api_key", "tools", "extra_headers", "extra_body")}
try:
    for _ in range(2):
        answer = litellm.completion(messages=messages, max_tokens=order["max_tokens"], **given)
        message, usage = answer.choices[0].message, answer.usage
        turns.append([usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens or 0])
        messages.append(message.model_dump(exclude_none=True))
        for call in message.tool_calls or []:
            messages.append({"role": "tool", "tool_call_id": call.id, "content": order["result"]})
    print(json.dumps({"turns": turns}))
except litellm.BadRequestError as error:
    print(json.dumps({"status": error.status_code, "message": str(error)}))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    scripts = tmp_path_factory.mktemp("scripts")
    steps = ["I look.\n" + tool_call_text("run", {"command": "ls"}), "Done."]
    (scripts / "look.json").write_text(json.dumps({"name": "look", "steps": steps}))
    flags = ("--scripts", str(scripts), "--scheduler-policy", "mars")
    with emulated_server(tmp_path_factory.mktemp("server"), *flags) as server:
        yield server


# -- two turns of an agent, by each library: prompt tokens and cached tokens of both


def openai_client(server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=120)


def chat(server, headers: dict, body: dict, stream: bool) -> list[tuple[int, int]]:
    messages, turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": TASK}], []
    asked = {
        "model": "any",
        "max_tokens": ANSWER_TOKENS,
        "tools": [{"type": "function", "function": FUNCTION}],
        "extra_headers": headers,
        "extra_body": body,
    }
    for _ in range(2):
        completions = openai_client(server).chat.completions
        if stream:
            with completions.stream(messages=messages, stream_options={"include_usage": True}, **asked) as events:
                answer = events.get_final_completion()
        else:
            answer = completions.create(messages=messages, **asked)
        turns.append((answer.usage.prompt_tokens, answer.usage.prompt_tokens_details.cached_tokens))
        said = answer.choices[0].message
        calls = [call.model_dump(include={"id", "type", "function"}) for call in said.tool_calls or []]
        messages.append({"role": "assistant", "content": said.content} | ({"tool_calls": calls} if calls else {}))
        messages += [{"role": "tool", "tool_call_id": call["id"], "content": RESULT} for call in calls]
    return turns


def responses(server, headers: dict, body: dict, stream: bool) -> list[tuple[int, int]]:
    client, turns = openai_client(server), []
    items = [{"role": "developer", "content": SYSTEM}, {"role": "user", "content": TASK}]
    asked = {
        "model": client.models.list().data[0].id,
        "max_output_tokens": ANSWER_TOKENS,
        "tools": [{"type": "function", **FUNCTION}],
        "extra_headers": headers,
        "extra_body": body,
    }
    for _ in range(2):
        if stream:
            with client.responses.stream(input=items, **asked) as events:
                answer = events.get_final_response()
        else:
            answer = client.responses.create(input=items, **asked)
        turns.append((answer.usage.input_tokens, answer.usage.input_tokens_details.cached_tokens))
        items += [item.model_dump(exclude_none=True) for item in answer.output]
        calls = [item.call_id for item in answer.output if item.type == "function_call"]
        items += [{"type": "function_call_output", "call_id": call, "output": RESULT} for call in calls]
    return turns


def messages(server, headers: dict, body: dict, stream: bool) -> list[tuple[int, int]]:
    client, turns = anthropic_client(server), []
    said = [{"role": "user", "content": TASK}]
    asked = {
        "model": "any",
        "max_tokens": ANSWER_TOKENS,
        "system": SYSTEM,
        "tools": [{"name": "run", "input_schema": PARAMETERS}],
        "extra_headers": headers,
        "extra_body": body,
    }
    for _ in range(2):
        if stream:
            with client.messages.stream(messages=said, **asked) as events:
                answer = events.get_final_message()
        else:
            answer = client.messages.create(messages=said, **asked)
        cached = answer.usage.cache_read_input_tokens or 0
        turns.append((answer.usage.input_tokens + cached, cached))
        said.append({"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in answer.content]})
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": RESULT}
            for block in answer.content
            if block.type == "tool_use"
        ]
        said += [{"role": "user", "content": results}] if results else []
    return turns


def anthropic_client(server) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, auth_token=KEY, max_retries=0, timeout=120)


def litellm(server, headers: dict, body: dict) -> dict:
    """What the script above says."""
    order = {
        "model": "openai/any",
        "api_base": f"{server.url}/v1",
        "api_key": KEY,
        "max_tokens": ANSWER_TOKENS,
        "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": TASK}],
        "tools": [{"type": "function", "function": FUNCTION}],
        "extra_headers": headers,
        "extra_body": body,
        "result": RESULT,
    }
    run = subprocess.run(
        [str(AGENTS["mini"].python()), "-c", LITELLM],
        input=json.dumps(order),
        env=os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(run.stdout.splitlines()[-1])


LIBRARIES = {"chat": chat, "responses": responses, "messages": messages}


# -- what the server makes of it


def turns_by_program(server) -> dict[str, int]:
    return {program["program"]: program["turns"] for program in server.get("/mars/state?programs=1000")["programs"]}


def wait_for_two_turns(server, before: dict[str, int]) -> list[dict]:
    """The programs that had turns since ``before``, once they had two or a few seconds are over."""
    deadline = time.monotonic() + 10
    while True:
        programs = server.get("/mars/state?programs=1000")["programs"]
        grown = [program for program in programs if program["turns"] > before.get(program["program"], 0)]
        new_turns = sum(program["turns"] - before.get(program["program"], 0) for program in grown)
        if new_turns >= 2 or time.monotonic() > deadline:
            return grown
        time.sleep(0.05)


def one_program(server, client: dict, before: dict[str, int]) -> None:
    [program] = wait_for_two_turns(server, before)
    name = program["program"]
    assert program["turns"] == before.get(name, 0) + 2
    assert program["recognised_by"] == client["recognised_by"]
    if "program" in client:
        assert name == scoped(client["program"], f"Bearer {KEY}")
    parent = client.get("parent")
    assert program["parent"] == (None if parent is None else scoped(parent, f"Bearer {KEY}"))
    if not before.get(name):
        decisions = server.get("/mars/state?programs=0")["gate"]["decisions"]
        assert any(each["program"] == name and each["decision"] == "admitted" for each in decisions)


def cases() -> list:
    listed = []
    for client in CLIENTS:
        if client["library"] == "litellm":
            listed.append(pytest.param(client, False, marks=needs("mini"), id=client["client"]))
        else:
            listed += [pytest.param(client, on, id=client["client"] + " streaming" * on) for on in (False, True)]
    return listed


@pytest.mark.parametrize(("client", "stream"), cases())
def test_recorded_client_is_one_program_whose_second_turn_is_warm(server, client, stream):
    before = turns_by_program(server)
    if client["library"] == "litellm":
        turns = litellm(server, client["headers"], client["body"])["turns"]
    else:
        turns = LIBRARIES[client["library"]](server, client["headers"], client["body"], stream)
    [(prompt, _), (_, cached)] = turns
    assert cached >= prompt
    one_program(server, client, before)


CONTRADICTION = {"x-session-id": "a", "x-litellm-session-id": "b"}
SAYS = ("x-session-id = 'a'", "x-litellm-session-id = 'b'")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streaming"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_two_ids_that_contradict_each_other_are_the_librarys_error_400_with_both(server, library, stream):
    before = turns_by_program(server)
    with pytest.raises((openai.BadRequestError, anthropic.BadRequestError)) as refused:
        LIBRARIES[library](server, CONTRADICTION, {}, stream)
    assert refused.value.status_code == 400
    assert all(says in str(refused.value) for says in SAYS)
    assert turns_by_program(server) == before


@needs("mini")
def test_litellm_reports_contradictory_ids_as_its_own_error_400_with_both(server):
    refused = litellm(server, CONTRADICTION, {})
    assert refused["status"] == 400
    assert all(says in refused["message"] for says in SAYS)


def test_the_key_that_the_anthropic_library_is_given_is_the_tenant(server):
    client = anthropic.Anthropic(base_url=server.url, api_key="other", max_retries=0, timeout=120)
    headers = {"x-claude-code-session-id": "of-another-key"}
    asked = {"model": "any", "max_tokens": 4, "messages": [{"role": "user", "content": "hello"}]}
    client.messages.create(extra_headers=headers, **asked)
    # Some of its versions send it as x-api-key, some as a bearer token.
    owned = {scoped("of-another-key", key) for key in ("other", "Bearer other")}
    assert len(owned & turns_by_program(server).keys()) == 1


def test_counting_tokens_is_no_turn(server):
    before = turns_by_program(server)
    headers = {"x-claude-code-session-id": "counted"}
    asked = {"model": "any", "messages": [{"role": "user", "content": "hello there"}]}
    assert anthropic_client(server).messages.count_tokens(extra_headers=headers, **asked).input_tokens > 2
    assert turns_by_program(server) == before
