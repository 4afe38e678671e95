"""The scheduler in the preview code of MARS's authors (arXiv:2604.26963), as far as SGLang's engine can run it."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from mars_sglang.core.policies.bounded_table import BoundedTable
from mars_sglang.core.policy import BaseTurnPolicy, register_turn_policy
from mars_sglang.core.views import RunningView, TurnEnded, TurnEvent, TurnStarted, TurnView

#: Prompt tokens up to which a waiting turn is of level 0, 1 and 2; more is level 3.
LEVELS_TOKENS = (2048, 8192, 32768)

#: Prefill tokens of a turn's first step. It starts with an age of five levels, and there are four: level 0.
FIRST_QUANTUM_TOKENS = 2048

#: And of the later ones. A turn that uses up its quantum sinks a level (1024, then 512 tokens), so from its fourth
#: step on it is at the bottom. A policy is not told which step is the second or third: they get this too.
LATER_QUANTUM_TOKENS = 256


@dataclass(slots=True)
class _Started:
    at_s: float = 0.0


@register_turn_policy
class MarsPreviewTurnPolicy(BaseTurnPolicy):
    """Levels by the length of the whole prompt, cached or not; what was retracted goes before all.

    Its weaknesses are kept: a lone long prefill gets 256 tokens a step, the waiting queue does not age, and
    victims return to its front. Nothing is retained: KV goes least recently used first.
    """

    name = "mars-preview"
    cuts_prefills = True

    def __init__(self):
        self._started: BoundedTable[_Started] = BoundedTable(_Started)

    def observe(self, event: TurnEvent, now_s: float) -> None:
        match event:
            case TurnStarted():
                self._started.touch(event.turn_id).at_s = now_s
            case TurnEnded():
                self._started.pop(event.turn_id)

    def order_turns(self, turns: Sequence[TurnView], now_s: float) -> list[int]:
        """Retracted turns, the latest first, then levels, first come first served within one."""

        def key(i: int):
            turn = turns[i]
            started = self._started.get(turn.turn_id)
            if started is not None:
                # It waits, so it was retracted. When is not told: later than it was started.
                return turn.priority, -1, -started.at_s, turn.turn_id
            return turn.priority, bisect_left(LEVELS_TOKENS, turn.context_tokens), turn.arrived_s, turn.turn_id

        return sorted(range(len(turns)), key=key)

    def quantum_tokens(self, turn: TurnView, now_s: float) -> int | None:
        return LATER_QUANTUM_TOKENS if turn.started else FIRST_QUANTUM_TOKENS

    def order_victims(self, running: Sequence[RunningView], now_s: float) -> list[int]:
        """Larger KV first, then the later arrival: all that decode are of one level."""

        def key(i: int):
            turn = running[i]
            return -turn.priority, -turn.context_tokens, -turn.arrived_s, turn.turn_id

        return sorted(range(len(running)), key=key)
