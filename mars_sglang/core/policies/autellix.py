"""Autellix: least attained service by program, in four queues (PLAS, arXiv:2502.13965)."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from mars_sglang.core.policies.bounded_table import BoundedTable
from mars_sglang.core.policy import BaseTurnPolicy, register_turn_policy
from mars_sglang.core.views import (
    ProgramOver,
    RunningView,
    TurnArrived,
    TurnEnded,
    TurnEvent,
    TurnStarted,
    TurnView,
)

#: Attained service in tokens from which a call belongs to the second, third and fourth queue. Autellix
#: sets its queues by profiling; these are those of the MARS preview, so that the two can be compared.
QUEUES_TOKENS = (2048, 8192, 32768)

#: Waiting over service of a program, its present call included, at which the call is promoted to the top queue.
STARVED_RATIO = 2.0


@dataclass(slots=True)
class _Program:
    """What its finished calls got."""

    tokens: int = 0
    waited_s: float = 0.0
    served_s: float = 0.0


@dataclass(slots=True)
class _Call:
    since_s: float = 0.0
    """When it was queued or, if it was retracted, scheduled last."""
    waited_s: float = 0.0
    """Before it was last scheduled; of that, what came after its promotion."""
    waited_again_s: float = 0.0
    """After retractions."""
    promoted: bool = False


@register_turn_policy
class AutellixTurnPolicy(BaseTurnPolicy):
    """Queues by the service of a program's finished calls; first come first served within a queue.

    Service is tokens computed: output, and prompt less what the cache had of it.
    """

    name = "autellix"

    def __init__(self):
        self._programs: BoundedTable[_Program] = BoundedTable(_Program)
        self._calls: BoundedTable[_Call] = BoundedTable(_Call)

    def observe(self, event: TurnEvent, now_s: float) -> None:
        match event:
            case TurnArrived():
                self._calls.touch(event.turn_id).since_s = now_s
            case TurnStarted():
                self._started(event, now_s)
            case TurnEnded():
                call = self._calls.pop(event.turn_id)
                if event.program is not None:
                    self._ended(event, call or _Call(), now_s)
            case ProgramOver():
                self._programs.pop(event.program)

    def _started(self, event: TurnStarted, now_s: float) -> None:
        call = self._calls.touch(event.turn_id)
        call.since_s = now_s
        call.waited_s += event.waited_s
        if event.retractions:
            call.waited_again_s += event.waited_s
        program = self._programs.get(event.program)
        if program is not None and _starved(program, call.waited_s):
            # Only the call begins anew: the paper leaves the program its record.
            call.promoted, call.waited_s = True, 0.0

    def _ended(self, event: TurnEnded, call: _Call, now_s: float) -> None:
        if event.last:
            self._programs.pop(event.program)
            return
        program = self._programs.touch(event.program)
        program.tokens += max(0, event.prompt_tokens - event.cached_tokens) + event.output_tokens
        program.waited_s += call.waited_s
        program.served_s += max(0.0, now_s - event.started_s - call.waited_again_s)

    def order_turns(self, turns: Sequence[TurnView], now_s: float) -> list[int]:
        def key(i: int):
            turn = turns[i]
            return turn.priority, self._queue(turn, now_s), turn.arrived_s, turn.turn_id

        return sorted(range(len(turns)), key=key)

    def _queue(self, turn: TurnView, now_s: float) -> int:
        program = self._programs.get(turn.program)
        if program is None:
            return 0
        call = self._calls.get(turn.turn_id)
        if call is not None and call.promoted:
            return 0
        waited_s = now_s - turn.arrived_s if call is None else call.waited_s + now_s - call.since_s
        return 0 if _starved(program, waited_s) else _queue_of(program.tokens)

    def order_victims(self, running: Sequence[RunningView], now_s: float) -> list[int]:
        """Lowest queue, larger KV, latest arrival. What a call decoded sinks it as its finished calls do."""

        def key(i: int):
            turn = running[i]
            program, call = self._programs.get(turn.program), self._calls.get(turn.turn_id)
            anew = program is None or (call is not None and call.promoted)
            queue = _queue_of(turn.output_tokens + (0 if anew else program.tokens))
            return -turn.priority, -queue, -turn.context_tokens, -turn.arrived_s, turn.turn_id

        return sorted(range(len(running)), key=key)


def _queue_of(service_tokens: int) -> int:
    return bisect_right(QUEUES_TOKENS, service_tokens)


def _starved(program: _Program, waited_s: float) -> bool:
    # From the top queue nobody can be promoted.
    below_top = _queue_of(program.tokens) > 0
    return below_top and program.waited_s + waited_s >= STARVED_RATIO * program.served_s
