"""What a policy is shown: frozen views of turns, contexts and programs.

The engine adapter, the emulated server and a simulator fill the same views, so that one
policy object decides alike in all three. Times are seconds of :mod:`mars_sglang.clock`;
sizes are tokens of KV.
"""

from collections.abc import Callable
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
    program_arrived_s: float = 0.0
    """When its program first came; the turn's own arrival where there is no program."""
    started: bool = False
    """Whether a part of its prefill has run: the engine goes on with it before all others."""


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


class EngineFacts(NamedTuple):
    """What a turn policy is told of its engine before anything else."""

    capacity_tokens: int
    """KV tokens of the pool."""
    chunk_tokens: int
    """Prefill tokens of one step, at most."""
    prefill_s: Callable[[int, int], float]
    """Seconds to prefill so many tokens after a cached prefix of so many tokens, alone."""


class TurnArrived(NamedTuple):
    """A turn reached the engine's queue."""

    turn_id: str
    program: str | None
    context_tokens: int
    """Its prompt."""
    pause_s: float | None
    """Since the program's last turn ended; None for a first turn, or where there is no program."""


class TurnStarted(NamedTuple):
    """The first chunk of a turn's prefill was scheduled, also again after a retraction."""

    turn_id: str
    program: str | None
    waited_s: float
    """Since it arrived, or since it was retracted last."""
    retractions: int
    """How often it was retracted before this start."""


class TurnEnded(NamedTuple):
    """A turn was answered."""

    turn_id: str
    program: str | None
    prompt_tokens: int
    cached_tokens: int
    """Of its prompt, found in the cache at its first prefill."""
    output_tokens: int
    arrived_s: float
    started_s: float
    """When the first chunk of its first prefill was scheduled."""
    other_tokens: int
    """KV of the other turns that run at this moment."""
    last: bool
    """The client said that its program is over."""


class ToolKnown(NamedTuple):
    """What the program is inside of since its last turn ended. May come late, or never."""

    program: str
    tool: str
    """Name of the tool, or first word of a shell's command."""


class ProgramOver(NamedTuple):
    """No more turns of the program are expected."""

    program: str


TurnEvent = TurnArrived | TurnStarted | TurnEnded | ToolKnown | ProgramOver


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
    context_tokens: int = 0
    """KV that it holds or asks for now, without growth: its last context, or its present turns' prompts."""
    paused: bool = False
    """It was admitted before, and gave up its place inside a tool."""


class ToolsView(NamedTuple):
    """The executors of tools, all hosts together."""

    slots: int
    """Tools that run at a time, at most; 0 where nobody said."""
    active: int
    """Tools that run."""
    queued: int
    """Tools that wait for a slot."""
    wait_s: float
    """How long a tool waits for its slot, lately."""


@dataclass(frozen=True, slots=True)
class PoolView:
    """What admission shares out: memory, and the executors of tools."""

    capacity_tokens: int
    anonymous_tokens: int
    """KV of running requests without a program id: they pass the gate, their load counts."""
    referenced_tokens: int = 0
    """KV that turns in flight hold or ask for, anonymous ones included; programs inside a tool add nothing."""
    host_tokens: int = 0
    """KV tokens of a host tier; 0 where there is none."""
    tools: ToolsView | None = None
    """None where no host of tools reports."""


class TurnOutcome(NamedTuple):
    """A turn of an admitted program was answered, as the gate sees it."""

    program: str
    prompt_tokens: int
    cached_tokens: int
    """Of the prompt, as the engine reports it."""
    known_tokens: int
    """Of the prompt, in the program's context when its last turn ended: what a cache that forgets nothing would
    have found, shared prefixes aside."""
    output_tokens: int


@dataclass(frozen=True, slots=True)
class AdmissionDecision:
    """What to do now. Each tuple is in the order in which it is to be done."""

    pause: tuple[str, ...] = ()
    """Admitted programs inside a tool that give up their place."""
    admit: tuple[str, ...] = ()
    """Waiting programs that may start or resume."""
