"""InferCept: at a tool call, KV is held while that wastes less memory than recomputing it (arXiv:2402.01869)."""

from mars_sglang.core.policies.pinning import PinningTurnPolicy
from mars_sglang.core.policy import register_turn_policy
from mars_sglang.core.views import (
    ContextView,
    ProgramOver,
    TurnArrived,
    TurnEnded,
    TurnEvent,
    TurnStarted,
)


@register_turn_policy
class InferCeptTurnPolicy(PinningTurnPolicy):
    """First come first served by program, and least waste between holding and discarding.

    Holding C tokens for T seconds wastes ``T x C`` token seconds. Discarding them wastes what a recompute in
    chunks keeps busy without yielding a token, ``T_fwd(C) x (C + C_other) / 2``: half of the context on the
    average, and a like share of the other running turns' memory. The two are equal at
    ``T = T_fwd(C) x (C + C_other) / (2 C)`` (section 4 of the paper), so that is how long KV is held. What was held
    goes on: in the paper a request whose KV is preserved never leaves the GPU; only discarded and new ones queue.
    """

    name = "infercept"

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

    def pin_rank(self, context: ContextView) -> float:
        """The latest program first."""
        return -context.program_arrived_s
