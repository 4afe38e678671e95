"""Which tools the model called at the end of a turn, read from its text by SGLang's own parsers.

SGLang parses tool calls in each endpoint, streamed or whole, and only where a client sent
tools. Here the finished text is parsed once more, the same way for every endpoint: with the
server's ``--reasoning-parser`` and ``--tool-call-parser``. Runs in the server process.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from sglang.srt.entrypoints.openai.protocol import Function, Tool
from sglang.srt.function_call.function_call_parser import FunctionCallParser
from sglang.srt.parser.reasoning_parser import ReasoningParser

from mars_sglang.core.commands import MAX_NAME_CHARACTERS, command_word, fenced_command
from mars_sglang.stream.events import ToolUse

logger = logging.getLogger(__name__)

#: Calls reported of one turn. Parallel calls beyond it are rare and change no prediction.
MAX_TOOLS = 16
#: A longer answer is not parsed; only its end is looked at for a command block.
MAX_CHARACTERS = 200_000
#: What a fenced command block is called as a tool.
SHELL = "shell"

#: Arguments under which shell tools carry their command line.
_COMMAND_ARGUMENTS = ("command", "cmd", "script", "code")
#: A word where a format may put a function's name: after ``"name": "``, ``<function=``, ``[`` and the like.
_POSSIBLE_NAME = re.compile(r"[\"'=>:.\[\](|｜\n]\s*([A-Za-z_][\w.-]{0,63})")
_MAX_POSSIBLE_NAMES = 1000


class ParsedAnswer(NamedTuple):
    """A finished answer, taken apart as SGLang does for its client."""

    content: str
    """What the client gets as text: without thoughts, and without calls where it offered tools."""
    calls: tuple[tuple[str, Any], ...]
    """Name and arguments of each call that the client gets as one."""
    tools: tuple[ToolUse, ...]
    """What the model asked for, whether as calls or in words."""


def parse_answer(
    text: str,
    tools: Sequence[Any] | None = None,
    tool_call_parser: str | None = None,
    reasoning_parser: str | None = None,
) -> ParsedAnswer:
    """The tools that a finished answer asks for, in its order, and what is left of it.

    Args:
        text: the whole answer.
        tools: the request's ``tools`` as parsed JSON, in the shape of the chat, responses or
            Anthropic API; None or empty where the endpoint has none, then every name counts.
        tool_call_parser: SGLang's ``--tool-call-parser``; None: only a JSON list of calls (as
            ``tool_choice: required`` gives) and a fenced command block are recognised.
        reasoning_parser: SGLang's ``--reasoning-parser``; a call thought about is not a call.
    """
    if len(text) > MAX_CHARACTERS:
        return ParsedAnswer(text, (), _block(text[-MAX_CHARACTERS:]))
    try:
        answer = _without_reasoning(text, reasoning_parser)
        rest, found = _parsed(answer, _as_tools(tools, answer), tool_call_parser)
        if not found and (found := _json_calls(answer)):
            rest = ""
    except Exception as error:
        # A parser that fails on a model's text must cost no more than the name.
        logger.debug("mars-sglang: no tool names from an answer: %r", error)
        answer, rest, found = text, text, []
    uses = tuple(_use(name, arguments) for name, arguments in found[:MAX_TOOLS]) or _block(answer)
    return ParsedAnswer(rest, tuple(found), uses) if tools else ParsedAnswer(answer, (), uses)


def _block(answer: str) -> tuple[ToolUse, ...]:
    block = fenced_command(answer)
    return (ToolUse(SHELL, command_word(block)),) if block else ()


def _without_reasoning(text: str, reasoning_parser: str | None) -> str:
    if not reasoning_parser:
        return text
    parser = ReasoningParser(reasoning_parser, stream_reasoning=False, tool_call_parser_active=True)
    _, answer = parser.parse_non_stream(text)
    return answer or ""


def _parsed(text: str, tools: list[Tool], tool_call_parser: str | None) -> tuple[str, list[tuple[str, Any]]]:
    """What is left of the text, and its calls."""
    if not tool_call_parser or not text:
        return text, []
    parser = FunctionCallParser(tools, tool_call_parser)
    if not parser.has_tool_call(text):
        return text, []
    rest, calls = parser.parse_non_stream(text)
    return rest or "", [(call.name, call.parameters) for call in calls if call.name]


def _json_calls(text: str) -> list[tuple[str, Any]]:
    """``tool_choice: required`` makes the whole answer a JSON list of calls."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]") and '"name"' in text):
        return []
    try:
        calls = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return []
    return [
        (call["name"], call.get("parameters") or call.get("arguments"))
        for call in calls
        if isinstance(call, dict) and isinstance(call.get("name"), str)
    ]


def _as_tools(tools: Sequence[Any] | None, text: str) -> list[Tool]:
    if tools:
        names = [_name_of(tool) for tool in tools if isinstance(tool, Mapping)]
    else:
        # Detectors report known names only, so an endpoint without a list of tools is
        # given every word that could be one; which are calls is still for the parser to say.
        names = list(dict.fromkeys(_POSSIBLE_NAME.findall(text)))[:_MAX_POSSIBLE_NAMES]
    return [Tool(type="function", function=Function(name=name, parameters={})) for name in names if name]


def _name_of(tool: Mapping[str, Any]) -> str | None:
    function = tool.get("function")
    name = function.get("name") if isinstance(function, Mapping) else tool.get("name")
    return name if isinstance(name, str) else None


def _use(name: str, arguments: Any) -> ToolUse:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = None
    command = None
    if isinstance(arguments, Mapping):
        line = next((arguments[key] for key in _COMMAND_ARGUMENTS if arguments.get(key)), None)
        if isinstance(line, list):
            # Codex gives an argument vector, its last element a shell line.
            line = line[-1] if line else None
        if isinstance(line, str):
            command = command_word(line)
    return ToolUse(name[:MAX_NAME_CHARACTERS], command)
