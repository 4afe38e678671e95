"""MARS less one part, as policies of the simulator. Each name says what is missing: ``mars-no-order``.

They are for measuring what a part earns, so no server offers them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mars_sglang.core.admission.footprint import FootprintAdmission
from mars_sglang.core.policies.mars import MarsTurnPolicy
from mars_sglang.core.policy import BaseTurnPolicy
from mars_sglang.core.views import AdmissionDecision, PoolView, ProgramView

#: Silence in seconds that is certain to be an end; as the control process has it.
_CERTAIN_S = 600.0


class WithoutOrder(MarsTurnPolicy):
    """Turns in order of arrival."""

    name = "mars-no-order"
    order_turns = BaseTurnPolicy.order_turns


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


class WithoutGrowth(FootprintAdmission):
    """A program's footprint is what it holds now."""

    name = "mars-no-growth"

    def decide(
        self, admitted: Sequence[ProgramView], waiting: Sequence[ProgramView], pool: PoolView, now_s: float
    ) -> AdmissionDecision:
        def now(programs: Sequence[ProgramView]) -> list[ProgramView]:
            return [replace(program, footprint_tokens=program.context_tokens) for program in programs]

        return super().decide(now(admitted), now(waiting), pool, now_s)


class WithoutPausing(FootprintAdmission):
    """Nobody gives up a place inside a tool but the dormant."""

    name = "mars-no-pause"

    def _split_idle(self, admitted: Sequence[ProgramView]) -> tuple[list[ProgramView], list[ProgramView]]:
        return self.dormant(admitted), []


class WithoutDormancy(FootprintAdmission):
    """Silence does not make a program dormant before ten minutes."""

    name = "mars-no-dormancy"

    @property
    def dormant_s(self) -> float:
        return _CERTAIN_S


TURN_ABLATIONS = {kind.name: kind for kind in (WithoutOrder, WithoutPassing, WithoutRetention, WithoutVictims)}
ADMISSION_ABLATIONS = {kind.name: kind for kind in (WithoutGrowth, WithoutPausing, WithoutDormancy)}
