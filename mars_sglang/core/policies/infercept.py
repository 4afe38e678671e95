"""InferCept: at a tool call, KV is held while that wastes less memory than recomputing it (arXiv:2402.01869)."""

from collections.abc import Sequence

from mars_sglang.core.policies.pin_table import PinTable
from mars_sglang.core.policy import BaseTurnPolicy, register_turn_policy
from mars_sglang.core.views import (
    ContextState,
    ContextView,
    EngineFacts,
    ProgramOver,
    RunningView,
    TurnArrived,
    TurnEnded,
    TurnEvent,
    TurnStarted,
    TurnView,
)

#: Reclaimed in this order where nothing is held.
_RANK = {ContextState.PAUSED: 0, ContextState.TOOL: 1, ContextState.WAITING: 2}


@register_turn_policy
class InferCeptTurnPolicy(BaseTurnPolicy):
    """First come first served by program, and least waste between holding and discarding.

    Holding C tokens for T seconds wastes ``T x C`` token seconds. Discarding them wastes what a recompute in
    chunks keeps busy without yielding a token, ``T_fwd(C) x (C + C_other) / 2``: half of the context on the
    average, and a like share of the other running turns' memory. The two are equal at
    ``T = T_fwd(C) x (C + C_other) / (2 C)`` (section 4 of the paper), so that is how long KV is held.
    """

    name = "infercept"
    pins_kv = True

    def __init__(self):
        self._pins = PinTable()

    def attach(self, engine: EngineFacts) -> None:
        self._engine = engine

    def observe(self, event: TurnEvent, now_s: float) -> None:
        match event:
            case TurnArrived(program=str(program)):
                self._pins.came_back(program, now_s)
            case TurnStarted(program=str(program)) | ProgramOver(program=program):
                self._pins.drop(program)
            case TurnEnded(program=str(program)):
                if event.last:
                    self._pins.drop(program)
                else:
                    context_tokens = event.prompt_tokens + event.output_tokens
                    self._pins.pin(program, now_s + self.hold_s(context_tokens, event.other_tokens))

    def hold_s(self, context_tokens: int, other_tokens: int) -> float:
        """Seconds of a tool call up to which holding wastes less; 0 for an empty context."""
        if context_tokens <= 0:
            return 0.0
        forward_s = self._engine.prefill_s(context_tokens, 0)
        return forward_s * (context_tokens + other_tokens) / (2 * context_tokens)

    def order_turns(self, turns: Sequence[TurnView], now_s: float) -> list[int]:
        """What was held goes on, and the rest queues by arrival of the program: a call keeps its first place.

        In the paper a request whose KV is preserved never leaves the GPU; only discarded and new ones queue.
        """

        def key(i: int):
            turn = turns[i]
            held = self._pins.holds(turn.program, True, now_s)
            return turn.priority, not held, turn.program_arrived_s, turn.arrived_s, turn.turn_id

        return sorted(range(len(turns)), key=key)

    def pins(self, contexts: Sequence[ContextView], running: int, now_s: float) -> list[int]:
        """Contexts that are held, as long as two turns run: a lone turn that lacks memory would be aborted."""
        return [i for i in range(len(contexts)) if self._pins.holds_context(contexts[i], now_s)] if running > 1 else []

    def order_reclaim(self, contexts: Sequence[ContextView], now_s: float) -> list[int]:
        """What was discarded, least recently used first, then what is held, the latest program first."""

        def key(i: int):
            context = contexts[i]
            if self._pins.holds_context(context, now_s):
                return 3, -context.program_arrived_s, context.program
            return _RANK[context.state], -context.idle_s, context.program

        return sorted(range(len(contexts)), key=key)

    def order_victims(self, running: Sequence[RunningView], now_s: float) -> list[int]:
        """The program that came last first."""

        def key(i: int):
            turn = running[i]
            return -turn.priority, -turn.program_arrived_s, -turn.arrived_s, turn.turn_id

        return sorted(range(len(running)), key=key)
