"""MARS less one part, as policies of the simulator. Each name says what is missing: ``mars-no-order``.

They are for measuring what a part earns, so no server offers them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mars_sglang.core.admission.mars import MarsAdmission
from mars_sglang.core.dormancy import DORMANT_MAX_S
from mars_sglang.core.forecast import Rest
from mars_sglang.core.policies.mars import MarsTurnPolicy
from mars_sglang.core.policy import BaseTurnPolicy
from mars_sglang.core.program import Program
from mars_sglang.core.views import AdmissionDecision, ContextView, PoolView, ProgramView, TurnView


class WithoutOrder(MarsTurnPolicy):
    """Turns and contexts in the order in which programs came."""

    name = "mars-no-order"

    def _seconds(self, turn: TurnView) -> float:
        return turn.program_arrived_s

    def _context_seconds(self, known: Program | None, context: ContextView) -> float:
        return context.program_arrived_s


class WithoutKeeping(MarsTurnPolicy):
    """Any turn may evict any context."""

    name = "mars-no-keep"
    keeps_kv = False


class WithoutPassing(MarsTurnPolicy):
    """A turn that does not fit holds back those behind it."""

    name = "mars-no-passing"
    may_be_passed = BaseTurnPolicy.may_be_passed


class WithoutRetention(MarsTurnPolicy):
    """Contexts go least recently used first."""

    name = "mars-no-retention"
    order_reclaim = BaseTurnPolicy.order_reclaim


class WithoutVictims(MarsTurnPolicy):
    """SGLang's own order of retraction."""

    name = "mars-no-victims"
    order_victims = BaseTurnPolicy.order_victims


class WithoutGrowth(MarsAdmission):
    """A program's footprint is what it holds now."""

    name = "mars-no-growth"

    def _footprint(self, p: ProgramView, rest: Rest) -> int:
        return p.context_tokens - p.shared_tokens


class WithoutPausing(MarsAdmission):
    """Nobody gives up a place inside a tool but the dormant."""

    name = "mars-no-pause"

    def _can_pause(self, idle: list[ProgramView], silent: set[str]) -> bool:
        return bool(silent)


class WithoutDormancy(MarsAdmission):
    """Silence does not make a program dormant before it is certain to be over."""

    name = "mars-no-dormancy"

    def limit_s(self, p: ProgramView, pool: PoolView) -> float:
        return DORMANT_MAX_S


class WithoutKeys(MarsAdmission):
    """Programs start in order of arrival."""

    name = "mars-no-order"

    def _keys(self, admitted, waiting, feet, pool):
        _, most = super()._keys(admitted, waiting, feet, pool)
        return {p.program: (0, p.arrived_s, p.program) for p in (*admitted, *waiting)}, most


class WithoutEldest(MarsAdmission):
    """No share of the memory is kept for those that came first."""

    name = "mars-no-eldest"

    def __init__(self):
        super().__init__()
        self._eldest_share = 0.0


class WithoutTools(MarsAdmission):
    """Nothing is known of the hosts of tools."""

    name = "mars-no-tools"

    def decide(
        self, admitted: Sequence[ProgramView], waiting: Sequence[ProgramView], pool: PoolView, now_s: float
    ) -> AdmissionDecision:
        return super().decide(admitted, waiting, replace(pool, tools=None), now_s)


TURN_ABLATIONS = {
    kind.name: kind for kind in (WithoutOrder, WithoutKeeping, WithoutPassing, WithoutRetention, WithoutVictims)
}
ADMISSION_ABLATIONS = {
    kind.name: kind
    for kind in (
        WithoutGrowth,
        WithoutPausing,
        WithoutDormancy,
        WithoutKeys,
        WithoutEldest,
        WithoutTools,
    )
}
