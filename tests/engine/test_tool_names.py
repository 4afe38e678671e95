"""Tool names from finished answers, by SGLang's own parsers."""

import pytest

pytest.importorskip("sglang")

from mars_sglang.engine.tool_names import MAX_CHARACTERS, MAX_TOOLS, parse_answer
from mars_sglang.stream.events import ToolUse

CHAT = [{"type": "function", "function": {"name": "terminal", "parameters": {}}}]
RESPONSES = [{"type": "function", "name": "terminal", "parameters": {}}]
ANTHROPIC = [{"name": "terminal", "input_schema": {}}]
QWEN = 'I look.\n<tool_call>\n{"name": "terminal", "arguments": {"command": "cd /r && pytest -q"}}\n</tool_call>'


def tools_called(*args) -> tuple[ToolUse, ...]:
    return parse_answer(*args).tools


@pytest.mark.parametrize("tools", [CHAT, RESPONSES, ANTHROPIC, None], ids=["chat", "responses", "anthropic", "none"])
def test_a_call_is_found_whatever_the_endpoint_calls_its_tools(tools):
    assert tools_called(QWEN, tools, "qwen") == (ToolUse("terminal", "pytest"),)


@pytest.mark.parametrize(
    ("parser", "text"),
    [
        ("llama3", '<|python_tag|>{"name": "terminal", "parameters": {"command": "pytest"}}'),
        ("mistral", '[TOOL_CALLS] [{"name": "terminal", "arguments": {"command": "pytest"}}]'),
        (
            "qwen3_coder",
            "<tool_call>\n<function=terminal>\n<parameter=command>\npytest -x\n</parameter>\n</function>\n</tool_call>",
        ),
        ("pythonic", '[terminal(command="pytest")]'),
    ],
)
@pytest.mark.parametrize("tools", [CHAT, None], ids=["tools", "none"])
def test_formats_of_other_models(parser, text, tools):
    assert tools_called(text, tools, parser) == (ToolUse("terminal", "pytest"),)


def test_a_name_that_the_client_did_not_offer_is_no_call():
    assert tools_called(QWEN.replace("terminal", "launch"), CHAT, "qwen") == ()


def test_a_call_that_was_only_thought_about_is_no_call():
    assert tools_called(f"<think>{QWEN}</think>Done.", CHAT, "qwen", "qwen3") == ()
    assert tools_called(f"<think>hm</think>{QWEN}", CHAT, "qwen", "qwen3") == (ToolUse("terminal", "pytest"),)


def test_required_calls_are_a_json_list():
    text = '[{"name": "terminal", "parameters": {"command": "ls"}}, {"name": "edit", "parameters": {}}]'
    assert tools_called(text, CHAT, "qwen") == (ToolUse("terminal", "ls"), ToolUse("edit"))


def test_an_agent_without_tool_calls_asks_by_a_command_block():
    assert tools_called("THOUGHT: look\n```bash\nls -la\n```", None, "qwen") == (ToolUse("shell", "ls"),)


def test_an_argument_vector_is_read_by_its_shell_line():
    text = '<tool_call>\n{"name": "shell", "arguments": {"command": ["bash", "-lc", "make test"]}}\n</tool_call>'
    assert tools_called(text, None, "qwen") == (ToolUse("shell", "make"),)


@pytest.mark.parametrize("text", ["", "Just an answer.", "<tool_call>\n{broken", "[1, 2]", '["name"]'])
def test_no_call(text):
    assert tools_called(text, CHAT, "qwen") == ()


def test_their_number_is_bounded():
    assert len(tools_called(QWEN * 40, CHAT, "qwen")) == MAX_TOOLS


def test_what_the_client_gets_is_left():
    parsed = parse_answer(QWEN, CHAT, "qwen")
    assert parsed.content.strip() == "I look."
    assert [name for name, _ in parsed.calls] == ["terminal"]
    assert parse_answer(f"<think>hm</think>{QWEN}", None, "qwen", "qwen3") == (
        QWEN,
        (),
        (ToolUse("terminal", "pytest"),),
    )


def test_a_very_long_answer_is_not_parsed_but_its_command_block_counts():
    text = "x" * MAX_CHARACTERS + "\n```bash\nmake\n```"
    assert parse_answer(text, CHAT, "qwen") == (text, (), (ToolUse("shell", "make"),))
