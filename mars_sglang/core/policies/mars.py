"""The first MARS turn policy: short remainders first, aged; contexts kept in order of worth."""

from collections.abc import Sequence

from mars_sglang.core.policy import BaseTurnPolicy, register_turn_policy
from mars_sglang.core.views import ContextState, ContextView, RunningView, TurnView

#: Tokens of uncached remainder that one second of waiting makes up for. It bounds how
#: long later arrivals may pass a turn: its uncached tokens over this, so 16 s for a cold
#: 32K prompt and 50 s for one of 100K. Simulations found any constant about as good, so it
#: is a power of two near the 30 s that the paper's preview takes to raise a turn.
AGEING_TOKENS_PER_S = 2048.0

#: A turn that waited this long without fitting holds back those behind it until it fits.
#: The same 30 s: long enough for a step's worth of decoding turns to leave.
MAX_PASSED_S = 30.0

#: Silence after which a program inside a tool is taken for one that may never come back.
#: Its context then goes before those of programs that were heard from. The published 99th
#: percentile of a tool call outside shells and sub-agents is well under it.
DORMANT_S = 60.0

_RECLAIM_RANK = {ContextState.PAUSED: 0, ContextState.TOOL: 1, ContextState.WAITING: 2}


@register_turn_policy
class MarsTurnPolicy(BaseTurnPolicy):
    """Turns by uncached remainder with ageing; retained KV before victims; fair victims."""

    name = "mars"

    def order_turns(self, turns: Sequence[TurnView], now_s: float) -> list[int]:
        """By ``uncached + ageing x arrival``, which ranks as ``uncached - ageing x waited`` does.

        The key does not change while a turn waits, so an order is bounded by construction:
        a turn is passed only by turns that arrive within ``uncached / ageing`` seconds of it.

        Turns without a program keep their arrival order among themselves, as plain SGLang
        has it: each takes at least the key of the one before it.
        """
        keys = [turn.uncached_tokens + AGEING_TOKENS_PER_S * turn.arrived_s for turn in turns]
        anonymous = [i for i, turn in enumerate(turns) if turn.program is None]
        if anonymous:
            anonymous.sort(key=lambda i: (turns[i].priority, turns[i].arrived_s, turns[i].turn_id))
            floor = float("-inf")
            for i in anonymous:
                floor = keys[i] = max(keys[i], floor)
        return sorted(
            range(len(turns)),
            key=lambda i: (turns[i].priority, keys[i], turns[i].arrived_s, turns[i].turn_id),
        )

    def may_be_passed(self, turn: TurnView, now_s: float) -> bool:
        return now_s - turn.arrived_s < MAX_PASSED_S

    def order_reclaim(self, contexts: Sequence[ContextView], now_s: float) -> list[int]:
        """Paused programs, then silent ones, then those inside a tool, then those that wait.

        Within a kind the program that came last gives first: the ones that have held memory
        longest are the nearest to giving it back for good, and one order for everybody keeps
        two programs from evicting each other in turn.
        """

        def key(i: int):
            context = contexts[i]
            dormant = context.state == ContextState.TOOL and context.idle_s >= DORMANT_S
            rank = 0.5 if dormant else _RECLAIM_RANK[context.state]
            return rank, -context.idle_s if dormant else 0.0, -context.program_arrived_s, context.program

        return sorted(range(len(contexts)), key=key)

    def order_victims(self, running: Sequence[RunningView], now_s: float) -> list[int]:
        """Least urgent, least often retracted, latest program, least work lost.

        Past retractions come before age so that the same turn is not taken again and again.
        """
        return sorted(
            range(len(running)),
            key=lambda i: (
                -running[i].priority,
                running[i].retractions,
                -running[i].program_arrived_s,
                running[i].output_tokens,
                running[i].turn_id,
            ),
        )
