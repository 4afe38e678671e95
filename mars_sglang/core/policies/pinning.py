"""What Continuum and InferCept share: pinned contexts go on first and are reclaimed last."""

from collections.abc import Sequence

from mars_sglang.core.policies.pin_table import PinTable
from mars_sglang.core.policy import BaseTurnPolicy
from mars_sglang.core.views import ContextState, ContextView, EngineFacts, RunningView, TurnView

#: Reclaimed in this order where nothing is pinned; pins come after.
_RANK = {ContextState.PAUSED: 0, ContextState.TOOL: 1, ContextState.WAITING: 2}
_PINNED_RANK = 3


class PinningTurnPolicy(BaseTurnPolicy):
    """Programs first come first served, those that are pinned before the others.

    A policy says in ``observe`` what is pinned, and in :meth:`pin_rank` which pin goes first.
    """

    pins_kv = True

    def __init__(self):
        self._pins = PinTable()

    def attach(self, engine: EngineFacts) -> None:
        self._engine = engine

    def pin_rank(self, context: ContextView) -> float:
        """Of pinned contexts the one with the smallest rank is reclaimed first."""
        raise NotImplementedError

    def order_turns(self, turns: Sequence[TurnView], now_s: float) -> list[int]:
        """Turns of pinned programs, then the others, by arrival of the program: a call keeps its first place."""

        def key(i: int):
            turn = turns[i]
            pinned = self._pins.holds(turn.program, True, now_s)
            return turn.priority, not pinned, turn.program_arrived_s, turn.arrived_s, turn.turn_id

        return sorted(range(len(turns)), key=key)

    def pins(self, contexts: Sequence[ContextView], running: int, now_s: float) -> list[int]:
        """Pins that have not expired, as long as two turns run: a lone turn that lacks memory would be aborted.

        With one or none all pins are let go, but only in the sense that they may be reclaimed: what is
        reclaimed, if memory is short, is then decided by :meth:`order_reclaim`, and that takes them last.
        """
        return [i for i in range(len(contexts)) if self._pins.holds_context(contexts[i], now_s)] if running > 1 else []

    def order_reclaim(self, contexts: Sequence[ContextView], now_s: float) -> list[int]:
        """What is not pinned, least recently used first, then pins."""

        def key(i: int):
            context = contexts[i]
            if self._pins.holds_context(context, now_s):
                return _PINNED_RANK, self.pin_rank(context), context.program
            return _RANK[context.state], -context.idle_s, context.program

        return sorted(range(len(contexts)), key=key)

    def order_victims(self, running: Sequence[RunningView], now_s: float) -> list[int]:
        """The turn of the program that came last first."""

        def key(i: int):
            turn = running[i]
            return -turn.priority, -turn.program_arrived_s, -turn.arrived_s, turn.turn_id

        return sorted(range(len(running)), key=key)
