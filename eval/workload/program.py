"""What a recorded agent program is: its turns, in tokens and seconds, without any text."""

from __future__ import annotations

from dataclasses import dataclass

HUMAN = "human"
"""Tool class of a pause in which a person, not a tool, took the next step. It occupies no CPU slot."""


REUSE_BLOCK_TOKENS = 64
"""The Claude Code traces count reuse in whole blocks of 64 tokens of the previous prompt, never of the answer:
a reuse within a block of that prompt means that nothing was rewritten."""


class WorkloadError(ValueError):
    """A workload that cannot be read. The message names file, line, field, value and what is accepted."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One model call and the pause that follows it.

    ``reuse_tokens`` is the leading part of the prompt shared with the previous turn's prompt; ``None``
    where the history only grows. ``tool_s`` is in emulated seconds; ``None`` on the last turn, and where
    the recording has none.
    """

    in_tokens: int
    reuse_tokens: int | None
    out_tokens: int
    tool: str
    tool_s: float | None

    def rewrites(self, previous_in_tokens: int) -> bool:
        """Whether its prompt replaces a part of the previous one, of so many tokens: all but ``reuse_tokens``."""
        return self.reuse_tokens is not None and self.reuse_tokens + REUSE_BLOCK_TOKENS <= previous_in_tokens

    def pause_s(self, most_s: float) -> float:
        """Emulated seconds to the next turn as replayed: none where the recording has none, cut to ``most_s``."""
        return min(self.tool_s or 0.0, most_s)

    def kept_of(self, before: Turn) -> int:
        """Leading tokens of the prompt and answer of ``before`` that the recording kept."""
        return self.reuse_tokens if self.rewrites(before.in_tokens) else before.in_tokens + before.out_tokens


@dataclass(frozen=True, slots=True)
class Program:
    """One agent task. ``tool_tokens`` and ``system_tokens`` open its first prompt and are shared between programs."""

    id: str
    src: str
    turns: tuple[Turn, ...]
    tool_tokens: int = 0
    system_tokens: int = 0

    @property
    def largest_context(self) -> int:
        """Most tokens, prompt and answer together, that one of its turns holds."""
        return max(turn.in_tokens + turn.out_tokens for turn in self.turns)

    def cut(self, max_turns: int | None) -> Program:
        """The same program, ended after ``max_turns`` turns."""
        if max_turns is None or len(self.turns) <= max_turns:
            return self
        return Program(self.id, self.src, self.turns[:max_turns], self.tool_tokens, self.system_tokens)
