"""MARS as its paper describes it (arXiv:2604.26963), for comparison with what this project makes of it."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from mars_sglang.core.policies.bounded_table import BoundedTable
from mars_sglang.core.policy import BaseTurnPolicy, register_turn_policy
from mars_sglang.core.views import (
    ContextState,
    ContextView,
    EngineFacts,
    ProgramOver,
    RunningView,
    ToolKnown,
    TurnArrived,
    TurnEnded,
    TurnEvent,
    TurnStarted,
    TurnView,
)

#: Tokens of footprint or service up to which a program is of level 0, 1 and 2; more is level 3. The paper
#: gives no figures; these and the next are its preview's.
LEVELS_TOKENS = (2048, 8192, 32768)

#: Waiting that raises a turn by a level, up to level 0.
LEVEL_S = 30.0

#: Weight of the newest value in the moving averages. The paper says that it has them and not more; ours
#: forgets half in seven values.
AVERAGE_WEIGHT = 0.1

#: Tools whose average time is remembered.
MAX_TOOLS = 256

#: Reclaimed in this order; a context inside a tool that is retained takes the rank between.
_RANK = {ContextState.PAUSED: 0, ContextState.TOOL: 1, ContextState.WAITING: 3}


class MovingAverage:
    """Exponentially weighted; the first value stands for itself."""

    def __init__(self):
        self.value: float | None = None

    def add(self, value: float) -> None:
        self.value = value if self.value is None else self.value + AVERAGE_WEIGHT * (value - self.value)


@dataclass(slots=True)
class _Program:
    footprint_tokens: int = 0
    """Prompt of its first turn: the KV that it starts with."""
    service_tokens: int = 0
    """Computed for its finished turns."""
    context_tokens: int = 0
    """After its last turn."""
    ended_s: float = 0.0
    acting: bool = False
    tool: str | None = None
    retained_until_s: float = float("-inf")


@dataclass(slots=True)
class _Turn:
    since_s: float = 0.0
    """When it was queued or, if it was retracted, scheduled last."""
    waited_s: float = 0.0
    """For its first prefill."""


@register_turn_policy
class MarsPaperTurnPolicy(BaseTurnPolicy):
    """A multi-level feedback queue, and retention where a warm resumption is worth its memory.

    A program starts on the level of its initial footprint and sinks with the service that it got; a turn
    rises with its waiting. The paper keeps KV at a tool call if the gain exceeds the cost of holding
    it, and gives no formula. Ours weighs seconds of GPU against seconds of the pool's share:

        ``gain = prefill(C) + max(0, mean wait of cold continuations - of warm ones)``
        ``cost of t seconds = t x C / K``

    with C the context and K the pool. So KV is worth keeping for ``gain x K / C`` seconds: it is retained
    until then if the tool's average time is within that, and else not at all. Retention is soft.
    """

    name = "mars-paper"

    def __init__(self):
        self._programs: BoundedTable[_Program] = BoundedTable(_Program)
        self._turns: BoundedTable[_Turn] = BoundedTable(_Turn)
        self._tools: BoundedTable[MovingAverage] = BoundedTable(MovingAverage, MAX_TOOLS)
        self._all_tools = MovingAverage()
        self._cold_wait = MovingAverage()
        self._warm_wait = MovingAverage()

    def attach(self, engine: EngineFacts) -> None:
        self._engine = engine

    # -- what it learns ------------------------------------------------------------------------

    def observe(self, event: TurnEvent, now_s: float) -> None:
        match event:
            case TurnArrived():
                self._turns.touch(event.turn_id).since_s = now_s
                if event.program is not None:
                    self._came_back(event.program, event.context_tokens, event.pause_s)
            case TurnStarted():
                turn = self._turns.touch(event.turn_id)
                turn.since_s = now_s
                if not event.retractions:
                    turn.waited_s = event.waited_s
            case TurnEnded():
                turn = self._turns.pop(event.turn_id)
                if event.program is not None:
                    self._ended(event.program, event, turn or _Turn(), now_s)
            case ToolKnown():
                program = self._programs.get(event.program)
                if program is not None and program.acting:
                    program.tool = event.tool
                    self._retain(program)
            case ProgramOver():
                self._programs.pop(event.program)

    def _came_back(self, name: str, context_tokens: int, pause_s: float | None) -> None:
        program = self._programs.touch(name)
        if not program.footprint_tokens:
            program.footprint_tokens = context_tokens
        if program.acting and pause_s is not None:
            self._all_tools.add(pause_s)
            if program.tool is not None:
                self._tools.touch(program.tool).add(pause_s)
        program.acting = False

    def _ended(self, name: str, event: TurnEnded, turn: _Turn, now_s: float) -> None:
        if event.last:
            self._programs.pop(name)
            return
        program = self._programs.touch(name)
        if program.context_tokens:
            # Warm is a continuation that found at least half of what its program had left.
            warm = 2 * event.cached_tokens >= program.context_tokens
            (self._warm_wait if warm else self._cold_wait).add(turn.waited_s)
        program.service_tokens += max(0, event.prompt_tokens - event.cached_tokens) + event.output_tokens
        program.context_tokens = event.prompt_tokens + event.output_tokens
        program.ended_s, program.acting, program.tool = now_s, True, None
        self._retain(program)

    def _retain(self, program: _Program) -> None:
        worth_s = self._worth_s(program.context_tokens)
        average = self._all_tools if program.tool is None else self._tools.get(program.tool) or self._all_tools
        worth_it = average.value is None or average.value <= worth_s
        program.retained_until_s = program.ended_s + worth_s if worth_it else float("-inf")

    def _worth_s(self, context_tokens: int) -> float:
        """Seconds for which holding the context costs what a warm resumption gains."""
        if context_tokens <= 0:
            return 0.0
        queueing_s = 0.0
        if self._cold_wait.value is not None and self._warm_wait.value is not None:
            queueing_s = max(0.0, self._cold_wait.value - self._warm_wait.value)
        gain_s = self._engine.prefill_s(context_tokens, 0) + queueing_s
        return gain_s * self._engine.capacity_tokens / context_tokens

    # -- what it decides -----------------------------------------------------------------------

    def order_turns(self, turns: Sequence[TurnView], now_s: float) -> list[int]:
        """By level, of which waiting takes one off each 30 s; within a level by arrival."""

        def key(i: int):
            turn = turns[i]
            queued = self._turns.get(turn.turn_id)
            waited_s = now_s - (turn.arrived_s if queued is None else queued.since_s)
            level = max(0, self._level(turn.program, turn.context_tokens) - int(max(0.0, waited_s) // LEVEL_S))
            return turn.priority, level, turn.arrived_s, turn.turn_id

        return sorted(range(len(turns)), key=key)

    def order_reclaim(self, contexts: Sequence[ContextView], now_s: float) -> list[int]:
        """What is not retained, then what is, then what a waiting turn needs; lowest level, larger KV first."""

        def key(i: int):
            context = contexts[i]
            program = self._programs.get(context.program)
            retained = program is not None and now_s < program.retained_until_s
            rank = _RANK[context.state] + (retained and context.state == ContextState.TOOL)
            return rank, -self._level(context.program, context.tokens), -context.tokens, context.program

        return sorted(range(len(contexts)), key=key)

    def order_victims(self, running: Sequence[RunningView], now_s: float) -> list[int]:
        """Lowest level, larger KV; what a turn decoded sinks it as finished turns do."""

        def key(i: int):
            turn = running[i]
            level = self._level(turn.program, turn.context_tokens, turn.output_tokens)
            return -turn.priority, -level, -turn.context_tokens, turn.turn_id

        return sorted(range(len(running)), key=key)

    def _level(self, name: str | None, context_tokens: int, output_tokens: int = 0) -> int:
        """Level of a program without regard to waiting; of one that is not known, by its context."""
        program = self._programs.get(name)
        if program is None:
            return bisect_left(LEVELS_TOKENS, context_tokens)
        return bisect_left(LEVELS_TOKENS, max(program.footprint_tokens, program.service_tokens + output_tokens))
