import json
import urllib.error

import pytest

from mars_sglang.emulation import EMULATION_ENV
from mars_sglang.emulation.launch import main, server_environment
from mars_sglang.emulation.script import Script, ScriptError, ScriptFileError, Scripts
from tests.serving import emulated_server

LOOK = Script("look", ("first", "second in ${folder}", "third"))
SCRIPTS = Scripts([LOOK, Script("other", ("else",))])


def chat(*messages: tuple[str, str]) -> str:
    """A prompt as the emulated model's chat template writes it."""
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in messages) + "<|im_start|>assistant\n"


def test_prompt_without_a_marker_is_not_scripted():
    assert SCRIPTS.answer(chat(("user", "script: look"))) is None
    assert SCRIPTS.answer("") is None


def test_steps_follow_the_answers_in_the_conversation():
    messages = [("system", "be good"), ("user", "please [[script: look]]")]
    for step in LOOK.steps:
        assert SCRIPTS.answer(chat(*messages)) == step
        assert SCRIPTS.answer(chat(*messages)) == step, "asking again gives the same"
        messages += [("assistant", "whatever the client made of it"), ("user", "result")]


def test_assistant_messages_in_a_row_are_one_answer():
    split = [("assistant", "text"), ("assistant", "call"), ("user", "result")]
    assert SCRIPTS.answer(chat(("user", "[[script: look]]"), *split, *split)) == "third"


def test_answers_before_the_marker_do_not_count():
    assert SCRIPTS.answer(chat(("user", "a"), ("assistant", "b"), ("user", "[[script: look]]"))) == "first"


def test_values_of_the_marker_stand_in_the_steps():
    messages = [("user", "[[script: look folder=/tmp/x-1]]"), ("assistant", "first"), ("user", "ok")]
    assert SCRIPTS.answer(chat(*messages)) == "second in /tmp/x-1"
    with pytest.raises(ScriptError, match='folder="x"'):
        SCRIPTS.answer('[[script: look folder="x"]]')


def test_first_marker_wins_whatever_a_tool_prints():
    messages = [("user", "[[script: look]]"), ("assistant", "first"), ("user", "[[script: other]]")]
    assert SCRIPTS.answer(chat(*messages)).startswith("second")


def test_plain_text_is_followed_by_the_steps_that_it_holds():
    text = "[[script: look folder=f]]\n"
    for step in ("first", "second in f", "third"):
        assert SCRIPTS.answer(text) == step
        text += f"{step}\nobserved\n"
    with pytest.raises(ScriptError, match="'look' has 3 steps, and answer 4 was asked for"):
        SCRIPTS.answer(text)


def test_unknown_script_is_an_error_that_names_the_known():
    with pytest.raises(ScriptError, match="'nope' is not known; known: look, other"):
        SCRIPTS.answer("[[script: nope]]")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '{"name": "a", "steps": []}'),
        ("a.json", '{"name": "a b", "steps": ["x"]}'),
        ("a.json", '{"name": "a", "steps": [1]}'),
        ("a.json", '{"name": "a", "steps": ["x"], "more": 1}'),
        ("a.json", "{"),
        ("a.toml", "name = "),
    ],
)
def test_file_that_is_no_script_is_named(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ScriptFileError, match=name):
        Scripts.load(tmp_path)


def test_toml_and_json_are_read_and_names_must_differ(tmp_path):
    (tmp_path / "a.toml").write_text('name = "a"\nsteps = ["""\none\ntwo"""]\n')
    (tmp_path / "b.json").write_text('{"name": "b", "steps": ["x"]}')
    scripts = Scripts.load(tmp_path)
    assert (scripts.answer("[[script: a]]"), scripts.answer("[[script:b]]")) == ("one\ntwo", "x")
    (tmp_path / "c.json").write_text('{"name": "b", "steps": ["x"]}')
    with pytest.raises(ScriptFileError, match="are both named 'b'"):
        Scripts.load(tmp_path)


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_folder_without_scripts_stops_the_start(tmp_path, folder, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["--scripts", str(tmp_path / folder)]) == 2
    assert "--scripts" in capsys.readouterr().err


def test_folder_reaches_the_server_as_an_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = server_environment({}, "h200-qwen3-coder-30b", 1.0, "mine")
    assert json.loads(environment[EMULATION_ENV])["scripts"] == str(tmp_path / "mine")


BASH = {"type": "object", "properties": {"command": {"type": "string"}}}
CALL = 'I look.\n<tool_call>\n{"name": "bash", "arguments": {"command": "ls"}}\n</tool_call>'


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "s.json").write_text(json.dumps({"name": "s", "steps": [CALL, "The end."]}))
    with emulated_server(tmp_path_factory.mktemp("server"), "--scripts", str(folder)) as server:
        yield server


@pytest.mark.server
def test_chat_answers_with_the_steps_and_parsed_calls(server):
    tools = [{"type": "function", "function": {"name": "bash", "parameters": BASH}}]
    messages = [{"role": "user", "content": "[[script: s]]"}]
    body = {"model": "m", "messages": messages, "tools": tools}
    answer = server.post("/v1/chat/completions", body)["choices"][0]["message"]
    assert answer["content"] == "I look."
    assert json.loads(answer["tool_calls"][0]["function"]["arguments"]) == {"command": "ls"}
    messages += [answer, {"role": "tool", "tool_call_id": answer["tool_calls"][0]["id"], "content": "a b"}]
    assert server.post("/v1/chat/completions", body)["choices"][0]["message"]["content"] == "The end."


@pytest.mark.server
def test_anthropic_messages_answer_with_the_steps(server):
    tools = [{"name": "bash", "input_schema": BASH}]
    messages = [{"role": "user", "content": "[[script: s]]"}]
    body = {"model": "m", "max_tokens": 200, "messages": messages, "tools": tools}
    content = server.post("/v1/messages", body)["content"]
    assert [part["type"] for part in content] == ["text", "tool_use"]
    result = {"type": "tool_result", "tool_use_id": content[1]["id"], "content": "a b"}
    messages += [{"role": "assistant", "content": content}, {"role": "user", "content": [result]}]
    assert server.post("/v1/messages", body)["content"][0]["text"] == "The end."


@pytest.mark.server
def test_responses_answer_with_the_steps(server):
    model = server.get("/v1/models")["data"][0]["id"]
    items = [{"role": "user", "content": "[[script: s]]"}]
    body = {"model": model, "input": items, "tools": [{"type": "function", "name": "bash", "parameters": BASH}]}
    output = server.post("/v1/responses", body)["output"]
    assert [item["type"] for item in output] == ["message", "function_call"]
    items += [*output, {"type": "function_call_output", "call_id": output[1]["call_id"], "output": "a b"}]
    assert server.post("/v1/responses", body)["output"][0]["content"][0]["text"] == "The end."


@pytest.mark.server
def test_generate_answers_each_of_a_batch_with_its_own_step(server):
    texts = ["[[script: s]]\n", f"[[script: s]]\n{CALL}\na b\n", "no script"]
    answers = server.post("/generate", {"text": texts, "sampling_params": {"max_new_tokens": 60}})
    assert [answer["text"] for answer in answers[:2]] == [CALL, "The end."]
    assert answers[2]["meta_info"]["completion_tokens"] == 60


@pytest.mark.server
def test_dictated_text_of_the_request_wins(server):
    answer = server.chat("[[script: s]]", max_tokens=50, custom_params={"emulate_text": "Mine."}, ignore_eos=False)
    assert answer["choices"][0]["message"]["content"].startswith("Mine.")


@pytest.mark.server
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "[[script: x]]"}]}),
        ("/v1/chat/completions", {"stream": True, "messages": [{"role": "user", "content": "[[script: x]]"}]}),
        ("/v1/messages", {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "[[script: x]]"}]}),
        ("/generate", {"text": "[[script: x]]"}),
    ],
)  # fmt: skip
def test_unknown_script_is_http_400(server, path, body):
    with pytest.raises(urllib.error.HTTPError) as refused:
        server.post(path, body)
    assert refused.value.code == 400
    assert "script 'x' is not known; known: s" in refused.value.read().decode()
