"""What is kept of every turn and program of a run. Times are emulated seconds since the run began."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field


@dataclass(slots=True)
class TurnRecord:
    """One request that was answered in full. ``cached_tokens`` is None where the server does not report it."""

    program: str
    turn: int
    arrival_s: float
    """When the program could have sent it: its own arrival, or the end of the tool before."""
    sent_s: float
    first_token_s: float
    last_token_s: float
    traced_prompt_tokens: int
    """0 where nothing was traced."""
    prompt_tokens: int
    cached_tokens: int | None
    output_tokens: int
    kept_tokens: float
    """Leading tokens shared with the previous prompt and answer; 0 on the first turn."""
    recomputed_tokens: int | None
    tool: str | None = None
    tool_wait_s: float = 0.0
    tool_s: float = 0.0

    def row(self) -> dict:
        """For a line of JSON."""
        return asdict(self)


@dataclass(slots=True)
class ProgramRecord:
    """One program, to its end. ``failure`` is a short code, ``detail`` what was seen; both None if it completed."""

    program: str
    turns_planned: int
    arrival_s: float
    end_s: float | None = None
    """Last response of a completed program."""
    failure: str | None = None
    detail: str | None = None
    turns: list[TurnRecord] = field(default_factory=list)

    @property
    def completed(self) -> bool:
        """Whether every turn was answered."""
        return self.end_s is not None and self.failure is None

    @property
    def makespan_s(self) -> float:
        """Arrival to last response.

        Raises:
            ValueError: if the program did not complete.
        """
        if not self.completed:
            raise ValueError(f"{self.program} did not complete: {self.failure}")
        return self.end_s - self.arrival_s


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the server and the replayer. The server's figures are None where it does not give them."""

    at_s: float
    kv_used_tokens: int | None
    kv_share: float | None
    running: int | None
    waiting: int | None
    programs: int
    """Arrived and not ended."""
    in_tools: int
    tools_queued: int


def recomputed(previous_context: int | None, kept: float, prompt: int, cached: int | None) -> int | None:
    """Tokens of a prompt that the server had computed before for this program, and computed again.

    ``previous_context`` is the previous prompt plus its answer, None on the first turn. The KV of an answer's last
    token is never computed, and of a prompt the last token always is: neither counts.
    """
    if cached is None:
        return None
    if previous_context is None:
        return 0
    return max(0, int(min(previous_context - 1, kept, prompt - 1)) - cached)


def turns_of(programs: list[ProgramRecord]) -> Iterator[TurnRecord]:
    """Every answered turn, those of failed programs included."""
    return (turn for program in programs for turn in program.turns)
