"""What is compared of a prompt to tell which earlier turn it continues.

A prompt is a chain of units, and a *mark* is the hash of a chain up to some unit:

    chat      |system|user|assistant|tool|assistant|tool|      a unit is a message, or several of the
                              ^              ^                 assistant's in a row; marks after those
    text      |256 characters|256 characters|tail|             a unit is a block; marks after each; the
                             ^              ^                  tail is compared as it is

Hashes are Python's own of ``str``: 64 bits, keyed anew in each process, so that nobody outside can
make two texts collide. They never leave the process, and no id depends on them.
"""

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

#: Marks kept of one prompt: turns of a chat, or blocks of a text. The longest recorded program has 439 turns.
MAX_MARKS = 512

BLOCK_CHARACTERS = 256
BLOCK_TOKENS = 64

#: Fields that say nothing of what was said: where to cache, thoughts, which a client may drop, and the ids of calls.
#: Those are drawn by the server after the answer was read, and two agents that went the same way differ in them alone.
_PASSING = frozenset(
    {"cache_control", "reasoning", "reasoning_content", "reasoning_details", "encrypted_content"}
    | {"id", "call_id", "tool_call_id", "tool_use_id"}
)
_THOUGHTS = frozenset({"thinking", "redacted_thinking", "reasoning"})
_TEXTS = frozenset({"text", "input_text", "output_text"})
_END_OF_THOUGHT = "</think>"

#: Roles of what stands before the task: the same for all programs of one agent.
_INSTRUCTIONS = frozenset({"system", "developer"})


class Answer(NamedTuple):
    """What the model said in a turn."""

    text: str
    """As it was sent to the client."""
    spoken: tuple[str, tuple[tuple[str, str], ...]]
    """What is compared with a message that a client sends back: the text without thoughts and blanks
    around it, and name and canonical arguments of each tool call."""


class End(NamedTuple):
    """Where a prompt or a turn ends: the last mark, and what is behind it."""

    mark: int
    tail: Hashable = ""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A prompt as the index of programs sees it."""

    end: End
    turns_end: Sequence[int] = ()
    """Marks at which a finished turn that it continues may end, deepest first."""
    prompts_end: Sequence[int] = ()
    """Marks at which the prompt of that turn may end, deepest first."""
    marks: Sequence[int] = ()
    """Marks by which the histories of two programs differ, shallow first, at most :data:`MAX_MARKS`."""
    beginning: int = 0
    """Leading marks that say nothing when a program's first prompt has them."""
    opening: int | None = None
    """Mark after the first message that is no instruction: the task. None for a text."""
    spoken: int | None = None
    """Mark after the last answer in it, as the client sends that. None for a text."""
    said: int | None = None
    """Mark of the last answer in it, for this opening."""
    called: int | None = None
    """Mark of the last answer with the ids of its calls; None without such ids. The server draws them at random, so
    that only the agent that got the answer can send it, unless the model counts its calls instead."""
    called_before: int | None = None
    """The same of the answer before, if that had calls."""
    follows: str | None = None
    """The earlier response that the client names instead of sending the history."""

    def behind(self, index: int, size: int) -> Hashable | None:
        """The ``size`` characters or tokens behind mark ``turns_end[index]``; None if there is no more than that."""
        return None if size else ""

    def beyond(self, end: End) -> int | None:
        """A mark that a prompt has which went on from the turn that ended there as this one does."""
        return self.spoken

    def with_answer(self, answer: Answer) -> End | None:
        """Where the turn ends; None where that cannot be told."""
        return End(hash((self.end.mark, answer.spoken)))

    def with_said(self, answer: Answer) -> int | None:
        """:attr:`said` of a prompt that opens as this one does and whose last answer is ``answer``."""
        return None if self.opening is None else hash((self.opening, answer.spoken))


@dataclass(frozen=True, slots=True, eq=False)
class Text(Prompt):
    """Raw text or token ids."""

    content: Sequence[Any] = ""
    block: int = BLOCK_CHARACTERS

    def behind(self, index: int, size: int) -> Hashable | None:
        start = (len(self.turns_end) - index) * self.block
        if len(self.content) - start <= size:
            return None
        tail = self.content[start : start + size]
        return tail if isinstance(tail, str) else tuple(tail)

    def beyond(self, end: End) -> int | None:
        after = self.marks.index(end.mark) + 1 if end.mark in self.marks else MAX_MARKS
        return self.marks[after] if after < len(self.marks) else None

    def with_answer(self, answer: Answer) -> End | None:
        # Clients strip the blanks at an answer's end. The ids of an answer's tokens are not known.
        text = answer.text.rstrip()
        if not text or not isinstance(self.content, str):
            return None
        mark, tail = self.end.mark, self.end.tail + text
        whole = len(tail) // self.block * self.block
        for start in range(0, whole, self.block):
            mark = hash((mark, tail[start : start + self.block]))
        return End(mark, tail[whole:])


def answer_of(text: str | None, tool_calls: Iterable[tuple[str, Any]] = ()) -> Answer:
    """An answer as a client will send it back.

    Args:
        text: what the client got: the content of a message, without tool calls, or the whole text
            where the prompt was text too.
        tool_calls: name and arguments of each call, the arguments as JSON text or as an object.
    """
    text = text or ""
    return Answer(text, (_spoken(text), tuple((name, _canonical(arguments)) for name, arguments in tool_calls)))


def prompt_of(body: Mapping[str, Any]) -> Prompt | None:
    """What is compared of a request, on any of the endpoints that generate.

    None where there is nothing to go by: several prompts in one request, a text shorter than a
    block (too short to be worth knowing), images alone, or a body of an unknown form.
    """
    try:
        if isinstance(messages := body.get("messages"), list):  # OpenAI chat, Anthropic, Ollama
            system = body.get("system")
            return _chat(messages if system is None else [{"role": "system", "content": system}, *messages])
        if (given := body.get("input")) is not None:  # OpenAI responses
            items = [{"role": "user", "content": given}] if isinstance(given, str) else given
            if instructions := body.get("instructions"):
                items = [{"role": "system", "content": instructions}, *items]
            return _chat(items, body.get("previous_response_id"))
        for field in ("text", "prompt"):
            if isinstance(text := body.get(field), str):
                return _text(text, BLOCK_CHARACTERS)
        for field in ("input_ids", "prompt"):
            ids = body.get(field)
            if isinstance(ids, list) and ids and isinstance(ids[0], int):
                return _text(ids, BLOCK_TOKENS)
    except (TypeError, AttributeError, ValueError, LookupError, RecursionError):
        pass  # a body that the endpoint refuses or will make sense of in its own way
    return None


def _chat(messages: Sequence[Mapping[str, Any]], follows: str | None = None) -> Prompt:
    mark = hash(("chat", follows))
    marks: list[int] = []
    opening = None
    before = mark
    spoken: list[Mapping[str, Any]] = []
    last: list[Mapping[str, Any]] = []
    called: list[int | None] = [None]
    for message in messages:
        if _is_answer(message):
            if not spoken:
                before = mark
                last = spoken
            spoken.append(message)
            continue
        if spoken:
            mark = hash((mark, _heard(spoken)))
            marks.append(mark)
            called.append(_called(mark, spoken))
            spoken = []
        mark = hash((mark, _frozen(message)))
        if opening is None and message.get("role") not in _INSTRUCTIONS:
            opening = mark
    if spoken:
        mark = hash((mark, _heard(spoken)))
        marks.append(mark)
        called.append(_called(mark, spoken))
    opening = mark if opening is None else opening
    if follows is not None or not marks:
        return Prompt(End(mark), follows=follows, opening=opening)
    answer = _answer(last)
    return Prompt(
        End(mark),
        turns_end=(hash((before, answer.spoken)),),
        prompts_end=(before,),
        marks=marks[:MAX_MARKS],
        opening=opening,
        spoken=marks[-1],
        said=hash((opening, answer.spoken)),
        called=called[-1],
        called_before=called[-2],
    )


def _text(content: Sequence[Any], block: int) -> Text | None:
    whole = len(content) // block * block
    if not whole:
        return None
    mark = hash(("text", block))
    marks: list[int] = []
    for start in range(0, whole, block):
        part = content[start : start + block]
        mark = hash((mark, part if isinstance(part, str) else tuple(part)))
        marks.append(mark)
    tail = content[whole:]
    deepest_first = marks[::-1]
    return Text(
        End(mark, tail if isinstance(tail, str) else tuple(tail)),
        turns_end=deepest_first,
        prompts_end=deepest_first,
        marks=marks[:MAX_MARKS],
        beginning=min(len(marks), MAX_MARKS),
        content=content,
        block=block,
    )


def _is_answer(message: Mapping[str, Any]) -> bool:
    role = message.get("role")
    if role is not None:
        return role == "assistant"
    # Items of the responses endpoint: calls and thoughts are the model's, and outputs of calls are not.
    kind = message.get("type", "")
    return kind == "reasoning" or kind.endswith("_call")


def _called(mark: int, spoken: Sequence[Mapping[str, Any]]) -> int | None:
    """Mark of an answer with the ids of its calls."""
    ids: list[str] = []
    for message in spoken:
        ids += [call["id"] for call in message.get("tool_calls") or () if call.get("id")]
        if str(message.get("type", "")).endswith("_call"):
            ids += [message[key] for key in ("call_id", "id") if message.get(key)][:1]
        if isinstance(content := message.get("content"), list):
            ids += [part["id"] for part in content if part.get("type") == "tool_use" and part.get("id")]
    return hash((mark, *ids)) if ids else None


def _heard(spoken: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    """Consecutive messages of the assistant as the client sends them, turn after turn."""
    return tuple([_frozen(message) for message in spoken if message.get("type") not in _THOUGHTS])


def _answer(spoken: Sequence[Mapping[str, Any]]) -> Answer:
    """The same in the form of :func:`answer_of`."""
    texts: list[str] = []
    calls: list[tuple[str, Any]] = []
    for message in spoken:
        if str(message.get("type", "")).endswith("_call"):
            calls.append((message.get("name", ""), message.get("arguments", message.get("input"))))
            continue
        content = message.get("content")
        for part in [content] if isinstance(content, str) else content or ():
            if isinstance(part, str):
                texts.append(part)
            elif part.get("type") in _TEXTS:
                texts.append(part["text"])
            elif part.get("type") == "tool_use":
                calls.append((part["name"], part.get("input")))
        for call in message.get("tool_calls") or ():
            calls.append((call["function"]["name"], call["function"].get("arguments")))
    return answer_of("".join(texts), calls)


def _frozen(value: Any) -> Hashable:
    """A JSON value as something to hash, without what a client changes when it sends it again."""
    if isinstance(value, str):
        return _spoken(value) if _END_OF_THOUGHT in value else value.strip()
    if isinstance(value, dict):
        return tuple([(k, _frozen(v)) for k, v in value.items() if v is not None and k not in _PASSING])
    if isinstance(value, list):
        parts = [part for part in value if not (isinstance(part, dict) and part.get("type") in _THOUGHTS)]
        # Clients that mark one message for caching send it as a list of blocks, and later as text.
        if len(parts) == 1 and isinstance(parts[0], dict) and parts[0].get("type") in _TEXTS:
            return _frozen(parts[0].get("text"))
        return tuple([_frozen(part) for part in parts])
    return value


def _spoken(text: str) -> str:
    if _END_OF_THOUGHT in text:
        text = text.rpartition(_END_OF_THOUGHT)[2]
    return text.strip()


def _canonical(arguments: Any) -> str:
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            return arguments.strip()
    return json.dumps({} if arguments is None else arguments, sort_keys=True, separators=(",", ":"))
