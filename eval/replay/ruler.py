"""How many tokens a conversation takes with this server's tokenizer and chat template.

A prompt is modelled as ``base + sum over messages (overhead of the role + per_word x words)``. Four short
requests measure the constants of any server exactly enough; from then on the length that the server reports
after each turn corrects that conversation, so errors do not add up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from eval.replay.filler import Filler

_SHORT, _LONG = 100, 1100
_ANSWER_LEARNING = 0.05
_ANSWER_LEAST = 32
"""Answers shorter than this say too little about how answers re-tokenize."""


@dataclass
class Ruler:
    """Token counts of the parts of a prompt; the defaults are those of a template such as ChatML."""

    base: float = 3.0
    """Of an empty prompt, with the marker that asks for an answer."""
    user: float = 4.0
    assistant: float = 4.0
    system: float = 4.0
    per_word: float = 1.0
    answer_ratio: float = 1.0
    """Tokens of an answer read back in the history, per token generated: below 1 where the server drops
    special tokens from the text."""

    def overhead(self, role: str) -> float:
        """Tokens that a message of ``role`` costs beside its text."""
        return {"user": self.user, "assistant": self.assistant, "system": self.system}[role]

    def learn_answer(self, surprise: float, out_tokens: int) -> None:
        """Takes in that a prompt was ``surprise`` tokens longer than expected after an answer of ``out_tokens``."""
        if out_tokens >= _ANSWER_LEAST:
            step = _ANSWER_LEARNING * surprise / out_tokens
            self.answer_ratio = min(1.5, max(0.0, self.answer_ratio + step))


async def measure(count: Callable[[list[tuple[str, bytes]]], Awaitable[int]], seed: int) -> Ruler:
    """A ruler for one server. ``count`` gives the prompt tokens of a list of (role, content)."""
    text = Filler(seed, "ruler").words
    short = await count([("user", text(_SHORT))])
    long = await count([("user", text(_LONG))])
    three = await count([("user", text(_SHORT)), ("assistant", text(_SHORT)), ("user", text(_SHORT))])
    system = await count([("system", text(_SHORT)), ("user", text(_SHORT))])
    per_word = (long - short) / (_LONG - _SHORT)
    # One question and one answer more; which of the two costs what does not matter, they come in pairs.
    half = (three - short - 2 * _SHORT * per_word) / 2
    return Ruler(
        base=short - half - _SHORT * per_word,
        user=half,
        assistant=half,
        # Below 0 where the template brings a system prompt of its own that ours replaces.
        system=system - short - _SHORT * per_word,
        per_word=per_word,
    )
