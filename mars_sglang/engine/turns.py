"""What the engine's parts share about turns and programs: one object per scheduler process."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from mars_sglang.core.policy import TurnPolicy
from mars_sglang.core.program import ProgramTable
from mars_sglang.engine.wire import WireTurn

#: Programs that an engine process remembers. The state kept for one is a few hundred bytes.
MAX_ENGINE_PROGRAMS = 20_000


@dataclass(frozen=True, slots=True)
class ClockTick:
    """Rank 0's clock, broadcast to all ranks in the order of the requests around it."""

    now_s: float


@dataclass(slots=True)
class ReqTurn:
    """Ours on a host request (``req.mars``)."""

    program: str | None
    arrived_s: float
    program_arrived_s: float
    continuation: bool
    matched: bool = False
    """Whether its prefix was looked up in the cache since it was queued."""
    retractions: int = 0


class TurnBook:
    """The policy of this engine, the time it decides by, and what it knows of programs.

    Every rank builds the same book: all that enters it came with the broadcast requests.
    """

    def __init__(self, policy: TurnPolicy):
        self.policy = policy
        self.now_s = 0.0
        self.programs = ProgramTable(MAX_ENGINE_PROGRAMS)
        self.paused: frozenset[str] = frozenset()
        self.counters: Counter[str] = Counter()
        self.waiting_queue: list[Any] = []
        """The host's waiting queue as of the last pass."""

    def receive(self, turn: WireTurn) -> ReqTurn:
        """Note an arriving turn; what to keep on its request."""
        self.now_s = max(self.now_s, turn.arrived_s)
        continuation = False
        if turn.program is not None:
            # Each identified request names all programs that are paused now.
            self.paused = frozenset(turn.paused)
            known = self.programs.touch(turn.program, self.now_s)
            known.arrived_s = min(known.arrived_s, turn.program_arrived_s)
            continuation = known.turns > 0
        return ReqTurn(turn.program, turn.arrived_s, turn.program_arrived_s, continuation)

    def turn_ended(self, program: str, context_tokens: int) -> None:
        known = self.programs.touch(program, self.now_s)
        known.turns += 1
        known.last_end_s = self.now_s
        known.context_tokens = context_tokens
        self.counters["turns"] += 1


def native_priority(req: Any, enabled: bool, low_values_first: bool) -> int:
    """SGLang's ``priority`` turned so that smaller goes first; 0 where priorities are off."""
    if not enabled or req.priority is None:
        return 0
    return req.priority if low_values_first else -req.priority
