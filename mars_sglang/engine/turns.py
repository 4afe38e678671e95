"""What the engine's parts share about turns and programs: one object per scheduler process."""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mars_sglang.core.itl_target import ItlTarget
from mars_sglang.core.kept import NOTHING_KEPT, KeptContexts
from mars_sglang.core.policy import TurnPolicy
from mars_sglang.core.prefill_price import PrefillPrice
from mars_sglang.core.program import ProgramTable
from mars_sglang.core.views import (
    ProgramOver,
    ToolKnown,
    TurnArrived,
    TurnDropped,
    TurnEnded,
    TurnStarted,
    TurnView,
)
from mars_sglang.engine.decision_log import DecisionLog
from mars_sglang.engine.resumption import Resumption
from mars_sglang.engine.wire import WireTurn
from mars_sglang.stream.events import ExecutorLoad, PausePredicted, ProgramEnded

#: Programs that an engine process remembers. The state kept for one is a few hundred bytes.
MAX_ENGINE_PROGRAMS = 20_000

#: Hosts of tools that it remembers.
MAX_EXECUTORS = 256

KEPT, MEMORY, ORDER = "kept", "memory", "order"
WAITED_FOR = (KEPT, MEMORY, ORDER)
"""Why a turn waits in the queue: for contexts that are kept from it; for room, which is KV or a place among the running
turns; for turns ahead of it."""

#: Batches that are launched and without a result at most: two with overlapped scheduling, one per stage of a pipeline.
MAX_LAUNCHED = 64


@dataclass(frozen=True, slots=True)
class ClockTick:
    """What rank 0 measures, broadcast to all ranks in the order of the requests around it."""

    now_s: float
    prefill: PrefillPrice
    """What its prefills took lately."""
    decode_s: float = 0.0
    """What its decode steps took."""


@dataclass(frozen=True, slots=True)
class StreamNews:
    """What rank 0 heard on the information stream since its last pass, broadcast likewise."""

    events: tuple[ExecutorLoad | PausePredicted | ProgramEnded, ...]


@dataclass(slots=True)
class ReqTurn:
    """Ours on a host request (``req.mars``)."""

    program: str | None
    arrived_s: float
    program_arrived_s: float
    continuation: bool
    pause_s: float | None = None
    """Since the program's last turn ended; None for its first."""
    matched: bool = False
    """Whether its prefix was looked up in the cache since it was queued."""
    retractions: int = 0
    last: bool = False
    """The client called it the last turn of its program."""
    priority: int = 0
    """As in :class:`TurnView`, from when it is queued."""
    queued_s: float = 0.0
    """When it reached the scheduler."""
    prefill_s: float | None = None
    """When its first chunk was scheduled; None before."""
    retracted_s: float | None = None
    """When it was retracted last, until it is scheduled again; None if it is not waiting for that."""
    answering: bool = False
    """Whether its first token is out."""
    info: bool = False
    """Its client asked what became of it."""
    looks: int = 0
    """:attr:`TurnBook.looks` when it reached the scheduler."""
    batches: int = 0
    """:attr:`TurnBook.batches` likewise."""
    held_for_kept: bool = False
    """Whether it would have fit at least once, but for kept contexts."""
    short_of_memory: bool = False
    """Whether it did not fit at least once."""
    passed_over: bool = False
    """Whether one behind it went ahead at least once, because it did not fit."""
    waited_for: str | None = None
    """Why its prefill did not start at once: one of :data:`WAITED_FOR`, or None if it did."""
    resumption: Resumption | None = None
    """What it found of its program's context; None for a first turn, and before it started."""
    view: TurnView | None = None
    """As the policy sees it while it waits, until something changes."""

    @property
    def starts(self) -> bool:
        """Whether its prefill is still to start, or to start again after a retraction."""
        return self.prefill_s is None or self.retracted_s is not None


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
        self.looks = 0
        """How often waiting turns were looked at for a prefill."""
        self.batches = 0
        """How many batches with a prefill that made."""
        self.waiting_queue: list[Any] = []
        """The host's waiting queue as of the last pass."""
        self.running: list[Any] = []
        """The host's decoding requests as of the last pass."""
        self.kept = KeptContexts()
        """Contexts that turns ranked behind have to leave alone."""
        self.arranged = NOTHING_KEPT
        """What each has to, as of the last pass."""
        self.spare_tokens = 0
        """Of what is kept, tokens that the host tier holds too."""
        self.busy_s = 0.0
        """When the engine last had something to run."""
        self.prefill = PrefillPrice()
        """What a prefill costs, the same on every rank."""
        self.decode_s = 0.0
        """What a decode step takes, likewise."""
        self.itl: ItlTarget | None = None
        """How long running turns may wait for their next token; None: as long as there is to prefill."""
        self.prefill_left_s = float("inf")
        """Seconds of prefill that this pass may launch."""
        self.computing: deque[list[Any]] = deque(maxlen=MAX_LAUNCHED)
        """Host requests of the batches that were launched, until their results are in the cache; none for a decode."""
        self.executors: OrderedDict[str, tuple[float, ExecutorLoad]] = OrderedDict()
        """Latest report of each host of tools, with the time at which it was heard."""
        self.predictions: OrderedDict[str, PausePredicted] = OrderedDict()
        """When programs inside a tool are expected back."""
        self.log: DecisionLog | None = None
        """Where decisions are written down, for comparing ranks; None where nobody asked for that."""
        self.say: Callable[..., None] = _say_nothing
        """Publishes an event; decides nothing, so it need not be the same on every rank."""

    def receive(self, turn: WireTurn) -> ReqTurn:
        """Note an arriving turn; what to keep on its request."""
        self.now_s = max(self.now_s, turn.arrived_s)
        continuation, pause_s = False, None
        if turn.program is not None:
            # Each identified request names all programs that are paused now.
            paused = frozenset(turn.paused)
            for program in sorted(paused - self.paused):
                self.kept.drop(program)
            self.paused = paused
            self.kept.asks(turn.program)
            known = self.programs.touch(turn.program, self.now_s)
            known.arrived_s = min(known.arrived_s, turn.program_arrived_s)
            continuation = known.turns > 0
            if known.last_end_s is not None:
                pause_s = max(0.0, turn.arrived_s - known.last_end_s)
            self.predictions.pop(turn.program, None)
        return ReqTurn(
            turn.program,
            turn.arrived_s,
            turn.program_arrived_s,
            continuation,
            pause_s,
            last=turn.last,
            queued_s=self.now_s,
            info=turn.info,
        )

    def queued(self, turn_id: str, turn: ReqTurn, context_tokens: int) -> None:
        """A turn entered the host's queue: new, or back from a retraction."""
        if turn.retractions:
            turn.retracted_s = self.now_s
        else:
            turn.looks, turn.batches = self.looks, self.batches
            self.policy.observe(TurnArrived(turn_id, turn.program, context_tokens, turn.pause_s), self.now_s)

    def started(self, turn_id: str, turn: ReqTurn) -> None:
        """A chunk of the turn's prefill was scheduled."""
        turn.view = None
        if turn.program is not None:
            self.kept.drop(turn.program)
        if not turn.starts:
            return
        since_s = turn.queued_s if turn.retracted_s is None else turn.retracted_s
        if turn.prefill_s is None:
            turn.prefill_s, turn.waited_for = self.now_s, self._waited_for(turn)
        turn.retracted_s = None
        waited_s = max(0.0, self.now_s - since_s)
        self.policy.observe(TurnStarted(turn_id, turn.program, waited_s, turn.retractions), self.now_s)

    def _waited_for(self, turn: ReqTurn) -> str | None:
        """Of a turn whose prefill is in the newest batch."""
        if turn.held_for_kept:
            return KEPT
        if turn.short_of_memory:
            return MEMORY
        if self.batches > turn.batches + 1:
            return ORDER
        # Looked at again and again, and nobody started: there was no room for anyone.
        return MEMORY if self.looks > turn.looks + 1 else None

    def dropped(self, turn_id: str, turn: ReqTurn) -> None:
        """The turn was given up, as a rule before it ran."""
        if turn.program is not None:
            self.kept.drop(turn.program)
        self.policy.observe(TurnDropped(turn_id, turn.program), self.now_s)

    def hear(self, news: StreamNews) -> list[str]:
        """Take in what the stream said; the programs that ended."""
        ended = []
        for event in news.events:
            match event:
                case ExecutorLoad():
                    keep_newest(self.executors, event.executor, (self.now_s, event), MAX_EXECUTORS)
                case PausePredicted(program=str(program)):
                    keep_newest(self.predictions, program, event, MAX_ENGINE_PROGRAMS)
                    if event.tool:
                        self.policy.observe(ToolKnown(program, event.tool), self.now_s)
                case ProgramEnded(program=str(program)):
                    self.predictions.pop(program, None)
                    self.policy.observe(ProgramOver(program), self.now_s)
                    ended.append(program)
        return ended

    def context_ended(self, program: str, context_tokens: int) -> None:
        """A turn of the program ended with this context."""
        known = self.programs.touch(program, self.now_s)
        known.turns += 1
        known.last_end_s = self.now_s
        known.context_tokens = context_tokens
        self.counters["turns"] += 1

    def turn_ended(self, req: Any) -> None:
        """A host request was answered."""
        turn, prompt_tokens, output_tokens = req.mars, len(req.origin_input_ids), len(req.output_ids)
        if turn.program is not None:
            self.context_ended(turn.program, prompt_tokens + output_tokens)
            self.programs.get(turn.program).priority = turn.priority
        ended = TurnEnded(
            turn_id=req.rid,
            program=turn.program,
            prompt_tokens=prompt_tokens,
            cached_tokens=req.cached_tokens,
            output_tokens=output_tokens,
            arrived_s=turn.arrived_s,
            started_s=turn.queued_s if turn.prefill_s is None else turn.prefill_s,
            other_tokens=sum(len(r.origin_input_ids) + len(r.output_ids) for r in self.running if r is not req),
            last=turn.last,
        )
        self.policy.observe(ended, self.now_s)


def _say_nothing(event_type: type, **fields: Any) -> None:
    """Where there is no stream, or this rank has no part in it."""


def keep_newest(table: OrderedDict, key: str, value: Any, limit: int) -> None:
    """Set an entry of a table that holds the ``limit`` entries set last."""
    table[key] = value
    table.move_to_end(key)
    if len(table) > limit:
        table.popitem(last=False)
