"""What a policy is shown: frozen views of turns, contexts and programs.

The engine adapter, the emulated server and a simulator fill the same views, so that one
policy object decides alike in all three. Times are seconds of :mod:`mars_sglang.clock`;
sizes are tokens of KV.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
    priority: int = 0
    """Of its last turn, as in :class:`TurnView`: smaller is more urgent."""


class EngineFacts(NamedTuple):
    """What a turn policy is told of its engine before anything else."""

    capacity_tokens: int
    """KV tokens of the pool."""
    chunk_tokens: int
    """Prefill tokens of one step, at most."""
    prefill_s: Callable[[int, int], float]
    """Seconds to prefill so many tokens after a cached prefix of so many tokens, alone."""
    spare_tokens: int = 0
    """KV tokens that the host tier holds beyond what the GPU's pool does: so many may be evicted without being lost."""


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


class TurnDropped(NamedTuple):
    """A turn was given up without an answer: aborted while it waited, or refused. It may still end."""

    turn_id: str
    program: str | None


class ToolKnown(NamedTuple):
    """What the program is inside of since its last turn ended. May come late, or never."""

    program: str
    tool: str
    """Name of the tool, or first word of a shell's command."""


class ProgramOver(NamedTuple):
    """No more turns of the program are expected."""

    program: str


TurnEvent = TurnArrived | TurnStarted | TurnEnded | TurnDropped | ToolKnown | ProgramOver


class ProgramView(NamedTuple):
    """A program as admission control sees it. It changes with the program's events and not with time, so the gate makes
    one per event and not one per decision."""

    program: str
    arrived_s: float
    """First request, ever. Keeps its place when the program is paused."""
    waiting_since_s: float | None
    """When its oldest held turn reached the gate; None when nothing of it is held."""
    in_flight: int
    """Turns that passed the gate and have not ended."""
    context_tokens: int
    """KV that it holds or asks for now, without growth: its last context, or its present turns' prompts."""
    turns: int
    """Turns that ended."""
    idle_since_s: float | None = None
    """When its last turn ended, while nothing of it is in flight; None while something is, and before the first."""
    paused: bool = False
    """It was admitted before, and gave up its place inside a tool."""
    tenant: str = ""
    """Whose it is; empty for the one without a key."""
    shared_tokens: int = 0
    """Of its context, what the cache held before its first turn: a prefix that others have too."""
    resident_tokens: int | None = None
    """Of its context, what the engine says to be cached still; None where the engine does not say."""
    first_tokens: int = 0
    """Prompt of its first turn."""
    history: "ProgramHistory | None" = None
    """Sums over its turns; None before the first ended."""
    remaining_turns: float | None = None
    """Turns to come, as its client said; None where it did not."""

    def idle_s(self, now_s: float) -> float:
        """Since its last turn ended, while nothing is in flight; 0 otherwise."""
        return 0.0 if self.idle_since_s is None else max(0.0, now_s - self.idle_since_s)


class ProgramHistory(NamedTuple):
    """Sums over the turns of a program that ended."""

    turns: int
    output_tokens: int
    grown_tokens: int
    """Growth of its context, from its first turn's end to its last one's."""
    busy_s: float
    """From passing the gate to the last token."""
    pauses: int
    """Pauses that ended."""
    paused_s: float
    """How long those were, without a wait at the gate."""
    tools: tuple[tuple[str, int], ...] = ()
    """Turns that ended in a call of each tool or shell command, by name; ``human`` for those that called none."""


class ToolsView(NamedTuple):
    """The executors of tools, all hosts together; those of which nothing new is heard are only counted."""

    slots: int
    """Tools that run at a time, at most; 0 where nobody said."""
    active: int
    """Tools that run."""
    queued: int
    """Tools that wait for a slot."""
    wait_s: float
    """How long a tool waits for its slot, lately."""
    cpu_pressure: float | None = None
    """Share of the last 10 s in which some task waited for a core or was throttled, 0 to 1, on the host where that is
    most; None where none tells."""
    memory_pressure: float | None = None
    """The same of tasks that waited for memory."""
    memory_used_share: float | None = None
    """Memory in use, of what may be used, on the host nearest to its limit; page cache may count as used."""
    hosts: int = 1
    """How many there are, with those of which nothing new is heard."""
    stale: int = 0
    """Of these, of how many nothing new is heard: how busy they are now is unknown."""


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
    host_copies: bool = True
    """Whether the host tier holds copies of what the GPU holds (SGLang's write-through, its default)."""
    engine_keeps: bool = False
    """Whether the engine itself keeps the contexts of those ahead from those behind: then more may be inside than
    fit."""
    prefill_token_s: float | None = None
    """Seconds of the engine to prefill a token, as the engine learned it; None where it does not say."""
    load_token_s: float | None = None
    """Seconds to load a token from the host tier, likewise."""
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
    grown_tokens: int | None
    """Growth of the context by this turn; None for a first one."""
    passed_s: float
    """When it passed the gate."""


@dataclass(frozen=True, slots=True)
class AdmissionDecision:
    """What to do now. Each tuple is in the order in which it is to be done."""

    pause: tuple[str, ...] = ()
    """Admitted programs inside a tool that give up their place."""
    admit: tuple[str, ...] = ()
    """Waiting programs that may start or resume."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why, in a few words, by program; for people. A program that is not named says nothing."""
