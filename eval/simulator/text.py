"""Texts without tokens: where each stretch of a prompt comes from, so that two prompts can be compared.

A span is ``(source, offset, length)``: tokens ``[offset, offset + length)`` of an endless text. Equal sources at
equal offsets are equal tokens, and different sources share none. A program whose history only grows has one source;
each cut of its history starts a new one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable

from eval.workload.program import Program, Turn

Span = tuple[Hashable, int, int]

#: Tokens that the replayer's ruler measures on a ChatML template beside the words of a message, and of the marker that
#: asks for an answer (:mod:`eval.replay.ruler`).
MESSAGE_TOKENS, ANSWER_MARK_TOKENS = 5, 3


class Text:
    """A sequence of tokens as spans; ``len()`` in tokens."""

    __slots__ = ("_starts", "spans")

    def __init__(self, spans: list[Span]) -> None:
        self.spans = spans
        self._starts = []
        end = 0
        for _, _, length in spans:
            self._starts.append(end)
            end += length
        self._starts.append(end)

    def __len__(self) -> int:
        return self._starts[-1]

    def at(self, position: int) -> tuple[Hashable, int]:
        """Source and offset of one token: its identity."""
        index = bisect_right(self._starts, position, 0, len(self.spans)) - 1
        source, offset, _ = self.spans[index]
        return source, offset + position - self._starts[index]

    def cut(self, start: int, end: int) -> list[Span]:
        """The spans of tokens ``[start, end)``."""
        cut: list[Span] = []
        index = bisect_right(self._starts, start, 0, len(self.spans)) - 1
        while start < end:
            source, offset, length = self.spans[index]
            skipped = start - self._starts[index]
            taken = min(length - skipped, end - start)
            cut.append((source, offset + skipped, taken))
            start += taken
            index += 1
        return cut

    def shared(self, spans: list[Span], start: int, limit: int) -> int:
        """How many leading tokens of ``spans`` equal this text from ``start`` on, looking no further than ``limit``."""
        position = start
        index = bisect_right(self._starts, start, 0, len(self.spans)) - 1
        for source, offset, length in spans:
            end = min(position + length, limit)
            while position < end:
                own_source, own_offset, own_length = self.spans[index]
                into = position - self._starts[index]
                if own_source != source or own_offset + into != offset:
                    return position - start
                step = min(own_length - into, end - position)
                position += step
                offset += step
                if into + step == own_length:
                    index += 1
            if position == limit:
                break
        return position - start


class History:
    """The prompts of one program, as :class:`eval.replay.conversation.Conversation` builds them.

    Prompts are exactly as long as traced: no tokenizer comes between.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._text: Text | None = None
        self._version = 0
        self._in_tokens = 0

    def ask(self, turn: Turn) -> tuple[Text, int, int]:
        """The prompt of ``turn``.

        Returns:
            Prompt and answer; tokens that the replayer counts as kept; leading tokens equal to the text before.
        """
        before = self._text
        if before is None:
            spans, counted, equal = self._opening(turn.in_tokens), 0, 0
        else:
            counted, equal = self._kept(turn, len(before))
            if equal < len(before):
                self._version += 1
            spans = before.cut(0, equal)
        known = sum(length for _, _, length in spans)
        source = (self._program.id, self._version)
        if spans and spans[-1][0] == source:
            _, offset, length = spans.pop()
            known -= length
        else:
            offset = known
        spans.append((source, offset, turn.in_tokens + turn.out_tokens - known))
        self._text = Text(spans)
        self._in_tokens = turn.in_tokens
        return self._text, counted, equal

    def _opening(self, in_tokens: int) -> list[Span]:
        tools, system = self._program.tool_tokens, self._program.system_tokens
        if tools + system == 0:
            return []
        room = in_tokens - ANSWER_MARK_TOKENS - 2 * MESSAGE_TOKENS - 1
        share = min(1.0, max(0, room) / (tools + system))
        heads = (("tools", round(tools * share)), ("system", round(system * share)))
        return [(source, 0, length) for source, length in heads if length]

    def _kept(self, turn: Turn, total: int) -> tuple[int, int]:
        keep = turn.in_tokens - MESSAGE_TOKENS - 1
        if turn.rewrites(self._in_tokens):
            keep = min(keep, turn.reuse_tokens)
        if keep >= total + MESSAGE_TOKENS:
            return total, total
        keep = max(0, keep)
        return keep, max(0, min(total, keep - ANSWER_MARK_TOKENS))
