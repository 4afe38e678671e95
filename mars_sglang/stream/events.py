"""What is said on the stream: one typed message per boundary that a turn or a tool call crosses.

Every message is a msgpack map with a ``kind``. A reader ignores fields that it does not know
and a writer leaves out fields at their default, so a field may be added; none is ever renamed,
retyped or removed. ``docs/events.md`` has the wire shapes, and golden bytes in the tests keep
them. Times are seconds of the sender's :mod:`mars_sglang.clock`; durations are seconds of it
too; sizes are tokens, or pages of the engine's KV allocator where the name says so.
"""

from typing import Annotated, ClassVar

import msgspec

#: A longer string in a message makes it malformed. An id of 256 characters fits with its tenant's mark.
MAX_NAME_CHARACTERS = 320

Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME_CHARACTERS)]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind"):
    """What every message carries.

    A sender numbers its messages from 1 without a hole; a hole seen by a reader is a loss.
    """

    plane: ClassVar[str] = "sync"
    """``gpu``, ``cpu``, ``control``, or ``sync`` for what only keeps readers whole."""

    source: Name = ""
    """The sending process, new at each of its starts: ``role:host:pid:nonce``."""
    source_seq: int = 0
    time_s: float = 0.0
    program: Name | None = None
    """Scoped to its tenant, as :mod:`mars_sglang.engine.identity` writes it."""
    turn: Name | None = None
    """The host's request id."""


# -- GPU plane --------------------------------------------------------------------------------


class TurnSubmitted(Event, tag="turn_submitted", frozen=True, kw_only=True, omit_defaults=True):
    """A turn reached the server. Says what it will hold: the capacity check's input."""

    plane = "gpu"
    prompt_tokens: int = 0
    projected_tokens: int = 0
    """KV that the turn will hold at its end: prompt plus the output that it may or says to have."""
    number: int = 0
    """Turns of the program that ended before this one."""
    recognised_by: Name | None = None
    """Where the id stood (``header x-session-id``), or ``continuation``; None without a program."""
    parent: Name | None = None
    """The program that started this one as a sub-agent."""
    tool: Name | None = None
    """The tool whose result this turn brings, where the client says so."""
    gated: bool = True
    """Whether it is scheduled as its program's. The first turn of what may be a mere chat is served as one."""
    held: bool = False
    """Whether it waits for an admission ticket; False: it is on its way to the engine."""
    tenant: Name = ""
    """Whose it is: the digits that stand before its ids, or a name that the client gave; empty without a key."""
    remaining_turns: float | None = None
    """Turns of the program after this one, as its client says."""


class TurnPassed(Event, tag="turn_passed", frozen=True, kw_only=True, omit_defaults=True):
    """A turn that waited for a ticket went to the engine without one: nobody answered."""

    plane = "gpu"
    reason: Name = ""
    """``away``, ``slow`` or ``restarted``: what the control process was."""


class EngineSpeed(Event, tag="engine_speed", frozen=True, kw_only=True, omit_defaults=True):
    """What work costs on this engine, as it learned from its own steps; said when that changed."""

    plane = "gpu"
    instance: Name = ""
    """Of :class:`GateSettings`: which server's engine it is."""
    prefill_token_s: float = 0.0
    """Seconds to prefill a token of a prompt of 10,000."""
    load_token_s: float | None = None
    """Seconds to load a token's KV from the host tier; None where there is none, or nothing was loaded yet."""


class FirstToken(Event, tag="first_token", frozen=True, kw_only=True, omit_defaults=True):
    """The turn's prefill is done."""

    plane = "gpu"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    queued_s: float = 0.0
    """From its arrival at the scheduler to its first chunk."""
    prefill_s: float = 0.0
    """From its first chunk to this token."""


class ToolUse(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool that the model asked for at the end of a turn."""

    tool: Name
    """The function's name, or ``shell`` for a fenced command block."""
    command: Name | None = None
    """First word of a shell command: what tells ``ls`` from ``pytest``. Never the arguments."""


class TurnEnded(Event, tag="turn_ended", frozen=True, kw_only=True, omit_defaults=True):
    """The turn has its last token, failed, or was given up."""

    plane = "gpu"
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    finish_reason: Name = ""
    """``stop``, ``length``, ``abort``, ``error``, ``refused`` by admission, or ``gone`` when the client went away."""
    tools: tuple[ToolUse, ...] = ()
    last: bool = False
    """The client called it the last turn of its program."""


class KvRetained(Event, tag="kv_retained", frozen=True, kw_only=True, omit_defaults=True):
    """A turn ended and its context stays cached, reclaimable."""

    plane = "gpu"
    pages: int = 0
    page_tokens: int = 1


class KvReleased(Event, tag="kv_released", frozen=True, kw_only=True, omit_defaults=True):
    """The program's context is nobody's any more: it ended. Its pages go before anyone's."""

    plane = "gpu"
    pages: int = 0
    page_tokens: int = 1


class KvEvicted(Event, tag="kv_evicted", frozen=True, kw_only=True, omit_defaults=True):
    """Cached pages that no known program's latest context needs were evicted."""

    plane = "gpu"
    pages: int = 0
    page_tokens: int = 1


class KvReclaimed(Event, tag="kv_reclaimed", frozen=True, kw_only=True, omit_defaults=True):
    """Memory was short: pages were taken from the tail of a program's retained context."""

    plane = "gpu"
    pages: int = 0
    pages_left: int = 0
    page_tokens: int = 1


class TurnRetracted(Event, tag="turn_retracted", frozen=True, kw_only=True, omit_defaults=True):
    """A running turn was sent back to the waiting queue."""

    plane = "gpu"
    output_tokens: int = 0
    retractions: int = 0


# -- CPU plane --------------------------------------------------------------------------------


class ToolStarted(Event, tag="tool_started", frozen=True, kw_only=True, omit_defaults=True):
    """A tool call began to run on an executor."""

    plane = "cpu"
    call: Name = ""
    """Id of the call, unique within its source."""
    tool: Name = ""
    command: Name | None = None
    executor: Name = ""
    """The host, or the name that the sidecar was given."""


class ToolEnded(Event, tag="tool_ended", frozen=True, kw_only=True, omit_defaults=True):
    """A tool call came back."""

    plane = "cpu"
    call: Name = ""
    tool: Name = ""
    command: Name | None = None
    executor: Name = ""
    duration_s: float = 0.0


class ToolFailed(Event, tag="tool_failed", frozen=True, kw_only=True, omit_defaults=True):
    """A tool call came back with an error, was killed, or its process vanished."""

    plane = "cpu"
    call: Name = ""
    tool: Name = ""
    command: Name | None = None
    executor: Name = ""
    duration_s: float = 0.0
    error: Name = ""
    """At most 200 characters."""


class ExecutorLoad(Event, tag="executor_load", frozen=True, kw_only=True, omit_defaults=True):
    """How busy a host of tools is. None: this host cannot tell."""

    plane = "cpu"
    executor: Name = ""
    cores: float = 0.0
    """Cores that tools may use: of the cgroup's limit where it has one, else of the affinity mask."""
    cores_used: float = 0.0
    """Of those, busy since the last report."""
    run_queue: float | None = None
    """Tasks that run or could run."""
    cpu_pressure: float | None = None
    """Share of the last 10 s in which some task waited for a core (PSI ``some avg10``), 0 to 1."""
    memory_pressure: float | None = None
    io_pressure: float | None = None
    throttled: float | None = None
    """Share of cgroup CPU periods that were throttled since the last report, 0 to 1."""
    memory_bytes: int | None = None
    memory_limit_bytes: int | None = None
    slots: int | None = None
    """Tool calls that may run at a time, where the executor has such a bound."""
    active: int = 0
    queued: int = 0
    wait_s: float | None = None
    """Moving average of the time that a call waited for a slot."""
    service_s: float | None = None
    """Moving average of the time that a call ran."""


# -- control plane ----------------------------------------------------------------------------


class AdmissionTicket(Event, tag="admission_ticket", frozen=True, kw_only=True, omit_defaults=True):
    """The answer to a turn that is held, or word that a program has a place without having waited for it, or gave its
    place up."""

    plane = "control"
    server: Name = ""
    """The source whose program it is."""
    decision: Name = ""
    """``waiting`` (asked, and not yet), ``admitted``, ``resumed``, ``paused`` (inside a tool), or ``released``: it
    ended or went dormant, and its place is free."""
    waited_s: float = 0.0
    reason: Name = ""
    """Why, in a few words, where the policy says."""


class AdmissionWindow(Event, tag="admission_window", frozen=True, kw_only=True, omit_defaults=True):
    """What a server's gate holds, after a decision that changed something, and at a heartbeat."""

    plane = "control"
    server: Name = ""
    """The source whose gate it is."""
    policy: Name = ""
    admitted: int = 0
    waiting: int = 0
    paused: int = 0
    footprint_tokens: int = 0
    anonymous_tokens: int = 0
    capacity_tokens: int = 0
    host_tokens: int = 0


class PausePredicted(Event, tag="pause_predicted", frozen=True, kw_only=True, omit_defaults=True):
    """When a program inside a tool is expected back, counted from its turn's end."""

    plane = "control"
    key: Name = ""
    """What was learned from: a command, a tool, or everything."""
    tool: Name = ""
    """What the program is inside of: a shell's command, a tool, or ``human`` where its turn called none."""
    probabilities: tuple[float, ...] = ()
    quantiles_s: tuple[float, ...] = ()
    """``quantiles_s[i]``: back within this time with ``probabilities[i]``."""


class ProgramEnded(Event, tag="program_ended", frozen=True, kw_only=True, omit_defaults=True):
    """No more turns are expected. A turn that comes all the same starts the program again."""

    plane = "control"
    reason: Name = ""
    """``final`` (said by the client with its last turn), ``deleted``, ``closed``, ``dormant``."""


# -- sync -------------------------------------------------------------------------------------


class Heartbeat(Event, tag="heartbeat", frozen=True, kw_only=True, omit_defaults=True):
    """From the control process: who is there, and how far each topic has come.

    A sender that sees a new ``epoch`` tells its state again; a reader that is behind asks.
    """

    epoch: int = 0
    topics: dict[str, int] = {}
    resend: tuple[Name, ...] = ()
    """Sources of which messages were lost, and which should tell their state again."""
    counters: dict[str, int] = {}
    """What the control process received, ordered and dropped since its start, by reason."""


class TurnState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A turn under way, as its server tells of it."""

    turn: Name
    prompt_tokens: int = 0
    since_s: float = 0.0
    """When it came, or when it passed the gate."""
    held: bool = False


class GateSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a server asks of its gate."""

    policy: Name
    capacity_tokens: int
    """KV tokens of the engine's pool, of all data-parallel ranks."""
    host_tokens: int = 0
    """KV tokens of the host tier; 0 where there is none."""
    host_copies: bool = True
    """Whether the host tier holds copies of what the GPU holds (write-through)."""
    weights: dict[Name, float] = {}
    """Weight of each tenant in the shares of the pool; 1 for one that is not named."""
    instance: Name = ""
    """Names the server and its engine alike."""
    engine_keeps: bool = False
    """Whether the engine itself keeps the contexts of those ahead from those behind."""


class ProgramState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A program in a snapshot."""

    program: Name
    phase: Name = "acting"
    """``held`` (at the gate), ``reasoning`` (queued or running) or ``acting`` (inside a tool)."""
    since_s: float = 0.0
    arrived_s: float = 0.0
    turns: int = 0
    context_tokens: int = 0
    retained_pages: int = 0
    page_tokens: int = 1
    admission: Name | None = None
    """``admitted``, ``waiting`` or ``paused``; None where no gate is."""
    parent: Name | None = None
    recognised_by: Name | None = None
    tools: tuple[ToolUse, ...] = ()
    tenant: Name = ""
    under_way: tuple[TurnState, ...] = ()
    """Its turns at the server; told by servers, and left out of snapshots."""


class ToolCallState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tool call in flight, in a snapshot."""

    call: Name
    tool: Name
    program: Name | None = None
    turn: Name | None = None
    command: Name | None = None
    executor: Name = ""
    started_s: float = 0.0


class SourceState(Event, tag="source_state", frozen=True, kw_only=True, omit_defaults=True):
    """A part of what its source knows to be going on now.

    Parts come in one run, the last with ``done``; together they replace what was known
    from earlier messages of this source.
    """

    role: Name = ""
    """``server`` knows programs, ``engine`` knows retained contexts, ``sidecar`` knows tool calls."""
    part: int = 0
    """Counts the parts of a run from 0; a run with a part missing counts for nothing."""
    programs: tuple[ProgramState, ...] = ()
    tool_calls: tuple[ToolCallState, ...] = ()
    under_way: tuple[TurnState, ...] = ()
    """Turns without a program; in the last part."""
    gate: GateSettings | None = None
    """In the last part, from a server that has a gate."""
    done: bool = True


class SourceStopped(Event, tag="source_stopped", frozen=True, kw_only=True, omit_defaults=True):
    """The source ends in good order; what only it knew is over."""


AnyEvent = (
    TurnSubmitted
    | TurnPassed
    | FirstToken
    | TurnEnded
    | EngineSpeed
    | KvRetained
    | KvReleased
    | KvEvicted
    | KvReclaimed
    | TurnRetracted
    | ToolStarted
    | ToolEnded
    | ToolFailed
    | ExecutorLoad
    | AdmissionTicket
    | AdmissionWindow
    | PausePredicted
    | ProgramEnded
    | Heartbeat
    | SourceState
    | SourceStopped
)
"""Every message; the type to decode."""
