"""The messages of one program: each prompt extends the last one and the model's real answer as the trace did.

    prompt k        |system|user 1|answer 1|user 2|
    prompt k+1      |system|user 1|answer 1|user 2|answer 2|user 3|       history grows: all of it is kept
    after a cut     |system|user 1|answ|user X|                           `reuse` smaller: the rest is rewritten

Message texts are kept JSON-encoded, so that a turn costs one join, however long the history is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from eval.replay.filler import Filler, SharedText
from eval.replay.ruler import Ruler
from eval.workload.program import Program, Turn


@dataclass(slots=True)
class _Message:
    role: str
    content: bytes
    tokens: float
    encoded: bytes = b""

    def encode(self) -> None:
        self.encoded = b'{"role":"%s","content":"%s"}' % (self.role.encode(), self.content)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request's messages as a JSON list; how long we expect it to be, and how much of it is old."""

    messages: bytes
    expected_tokens: float
    kept_tokens: float
    """Leading tokens that the previous prompt and its answer already had; 0 on the first turn."""


class Conversation:
    """State of one replayed program. Call :meth:`ask` and :meth:`answered` in turn."""

    def __init__(self, program: Program, seed: int, ruler: Ruler, shared: SharedText) -> None:
        self._ruler = ruler
        self._filler = Filler(seed, program.id)
        self._messages: list[_Message] = []
        self._traced_in = 0
        self._answered_out: int | None = None
        """Output tokens of an answer that the next prompt brings back; None after a cut or before the first."""
        self._expected = 0.0
        self._start = (program, shared)

    def ask(self, turn: Turn) -> Prompt:
        """The prompt of ``turn``, as near to the traced length as whole words allow."""
        if self._traced_in == 0:
            self._open(turn)
            kept = 0.0
        else:
            kept = self._keep(turn)
        self._fill(turn.in_tokens)
        self._traced_in = turn.in_tokens
        self._expected = self._total()
        return Prompt(b"[" + b",".join([m.encoded for m in self._messages]) + b"]", self._expected, kept)

    def answered(self, text: str, prompt_tokens: int, out_tokens: int) -> None:
        """Takes in the real answer and the real length of the prompt it was to."""
        surprise = prompt_tokens - self._expected
        if self._answered_out is not None:
            self._ruler.learn_answer(surprise, self._answered_out)
        self._messages[-1].tokens += surprise
        tokens = self._ruler.assistant + out_tokens * self._ruler.answer_ratio
        self._append("assistant", json.dumps(text)[1:-1].encode(), tokens)
        self._answered_out = out_tokens

    def _open(self, turn: Turn) -> None:
        program, shared = self._start
        if program.tool_tokens + program.system_tokens == 0:
            return
        room = turn.in_tokens - self._ruler.base - self._ruler.system - self._ruler.user - self._ruler.per_word
        share = min(1.0, max(0.0, room) / (program.tool_tokens + program.system_tokens))
        tools = round(program.tool_tokens * share / self._ruler.per_word)
        system = round(program.system_tokens * share / self._ruler.per_word)
        if tools + system:
            tokens = self._ruler.system + (tools + system) * self._ruler.per_word
            self._append("system", shared.words(tools, system), tokens)

    def _keep(self, turn: Turn) -> float:
        """Cuts what ``turn`` does not keep of the history; the tokens kept."""
        total = self._total()
        # A prompt shorter than its history (thoughts dropped from it, say) loses the end of the history.
        keep = turn.in_tokens - self._ruler.user - self._ruler.per_word
        if turn.rewrites(self._traced_in):
            keep = min(keep, turn.reuse_tokens)
        if keep >= total:
            return total
        self._cut(max(0.0, keep))
        self._answered_out = None
        return max(0.0, keep)

    def _cut(self, keep: float) -> None:
        position = self._ruler.base
        for index, message in enumerate(self._messages):
            if position + message.tokens <= keep:
                position += message.tokens
                continue
            del self._messages[index + 1 :]
            overhead = self._ruler.overhead(message.role)
            share = (keep - position - overhead) / max(1.0, message.tokens - overhead)
            words = message.content.split(b" ")
            count = int(share * (len(words) - 1))
            if count < 1:
                del self._messages[index:]
                return
            # An escape in JSON holds no space, so a cut before one leaves valid text.
            message.content = b" ".join(words[: count + 1])
            message.tokens = overhead + count * (message.tokens - overhead) / (len(words) - 1)
            message.encode()
            return

    def _fill(self, wanted: int) -> None:
        missing = wanted - self._total()
        last = self._messages[-1] if self._messages else None
        if last is not None and last.role == "user":
            # After a cut inside a question: some templates refuse two in a row, so this one goes on.
            words = round(missing / self._ruler.per_word)
            if words > 0:
                last.content += self._filler.words(words)
                last.tokens += words * self._ruler.per_word
                last.encode()
            return
        words = max(1, round((missing - self._ruler.user) / self._ruler.per_word))
        self._append("user", self._filler.words(words), self._ruler.user + words * self._ruler.per_word)

    def _append(self, role: str, content: bytes, tokens: float) -> None:
        message = _Message(role, content, tokens)
        message.encode()
        self._messages.append(message)

    def _total(self) -> float:
        return self._ruler.base + sum(message.tokens for message in self._messages)
