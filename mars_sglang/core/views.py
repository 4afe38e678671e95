"""What a policy is shown: frozen views of turns, contexts and programs.

The engine adapter, the emulated server and a simulator fill the same views, so that one
policy object decides alike in all three. Times are seconds of :mod:`mars_sglang.clock`;
sizes are tokens of KV.
"""

from dataclasses import dataclass
from typing import NamedTuple


class TurnView(NamedTuple):
    """A turn that waits for its prefill.

    A named tuple and not a dataclass because one is made per waiting turn and pass.
    """

    turn_id: str
    """The host's request id: unique, and the last tie-break of every order."""
    program: str | None
    """The program it belongs to; None for a request without an id."""
    uncached_tokens: int
    """Prefill still to do: prompt (and output, after a retraction) less what the cache holds."""
    context_tokens: int
    """Prompt plus output so far."""
    arrived_s: float
    """When the turn reached the server."""
    priority: int = 0
    """The host's outer priority, already turned so that a smaller number goes first."""
    continuation: bool = False
    """Whether an earlier turn of its program has ended."""


class RunningView(NamedTuple):
    """A turn that decodes, as a candidate for retraction."""

    turn_id: str
    program: str | None
    context_tokens: int
    """KV that retracting it frees, at most (a shared prefix stays)."""
    output_tokens: int
    """Decoded since its last prefill or retraction: work that retracting throws away."""
    arrived_s: float
    program_arrived_s: float
    """When its program first came; the turn's own arrival where there is no program."""
    retractions: int
    """How often this turn was retracted already."""
    priority: int = 0
    """As in :class:`TurnView`: smaller is more urgent."""


class ContextState:
    """Where the owner of a cached context stands. Plain strings: they go into logs and events."""

    TOOL = "tool"
    """Inside a tool call: nothing of the program waits or runs."""
    WAITING = "waiting"
    """A turn of the program is in the waiting queue."""
    PAUSED = "paused"
    """Inside a tool, and admission decided that its KV goes first."""


class ContextView(NamedTuple):
    """The cached context of a program, as a candidate for reclaiming."""

    program: str
    tokens: int
    """KV tokens still resident in the GPU's pool."""
    state: str
    """One of :class:`ContextState`."""
    idle_s: float
    """Since its last turn ended."""
    program_arrived_s: float
    turns: int
    """Turns ended so far."""


@dataclass(frozen=True, slots=True)
class ProgramView:
    """A program as admission control sees it."""

    program: str
    arrived_s: float
    """First request, ever. Keeps its place when the program is paused."""
    waiting_since_s: float | None
    """When its oldest held turn reached the gate; None when nothing of it is held."""
    in_flight: int
    """Turns that passed the gate and have not ended."""
    footprint_tokens: int
    """KV it holds or is about to: current context, the held turn's prompt, growth ahead."""
    idle_s: float
    """Since its last turn ended, while nothing is in flight; 0 otherwise."""
    turns: int
    passed_over: int = 0
    """How many programs that came later were admitted before it while it waited."""


@dataclass(frozen=True, slots=True)
class PoolView:
    """The memory that admission shares out."""

    capacity_tokens: int
    anonymous_tokens: int
    """KV of running requests without a program id: they pass the gate, their load counts."""


@dataclass(frozen=True, slots=True)
class AdmissionDecision:
    """What to do now. Each tuple is in the order in which it is to be done."""

    pause: tuple[str, ...] = ()
    """Admitted programs inside a tool that give up their place."""
    admit: tuple[str, ...] = ()
    """Waiting programs that may start or resume."""
