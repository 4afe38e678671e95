"""Residency: admit programs, first come first served, while the sum of their footprints fits."""

from collections.abc import Sequence

from mars_sglang.core.admission.dormancy import DormancyAdmission
from mars_sglang.core.policy import register_admission_policy
from mars_sglang.core.views import AdmissionDecision, PoolView, ProgramView

#: Share of the pool that admission fills. Simulations: .9 to .95 are alike, under .8 is
#: fragile. The rest is for growth between two decisions and for ended programs' leftovers.
FILL = 0.95

#: How many waiting programs that do not fit may be passed in one decision.
MAX_MISSES = 4

#: How many later programs may start before one that waits. With it, a program too large
#: for the room there is now waits for at most this many others, then for those inside.
MAX_PASSED_OVER = 32


@register_admission_policy
class FootprintAdmission(DormancyAdmission):
    """Keep the admitted programs' KV within the pool. A dormant program that comes back resumes by its first
    arrival, ahead of newcomers.
    """

    name = "mars"

    def decide(
        self,
        admitted: Sequence[ProgramView],
        waiting: Sequence[ProgramView],
        pool: PoolView,
        now_s: float,
    ) -> AdmissionDecision:
        used = pool.anonymous_tokens + sum(p.footprint_tokens for p in admitted)
        inside = len(admitted)
        dormant, acting = self._split_idle(admitted)
        pause: list[str] = []
        admit: list[str] = []

        def step_aside(p: ProgramView) -> None:
            nonlocal used, inside
            pause.append(p.program)
            used -= p.footprint_tokens
            inside -= 1

        # Growth overfilled the pool: the silent ones go, then who came last and is inside a tool.
        while used > pool.capacity_tokens and (dormant or acting):
            step_aside((dormant or acting).pop(0))

        room = FILL * pool.capacity_tokens
        misses = 0
        for p in sorted(waiting, key=lambda p: (p.arrived_s, p.program)):
            reclaimable = sum(d.footprint_tokens for d in dormant)
            if used - reclaimable + p.footprint_tokens <= room or inside == len(dormant):
                while dormant and used + p.footprint_tokens > room:
                    step_aside(dormant.pop(0))
                admit.append(p.program)
                used += p.footprint_tokens
                inside += 1
                continue
            misses += 1
            if misses >= MAX_MISSES or p.passed_over >= MAX_PASSED_OVER:
                break
        return AdmissionDecision(pause=tuple(pause), admit=tuple(admit))

    def _split_idle(self, admitted: Sequence[ProgramView]) -> tuple[list[ProgramView], list[ProgramView]]:
        """Programs with nothing in flight, each list in the order in which they step aside."""
        acting = [p for p in admitted if not p.in_flight and p.idle_s < self.dormant_s]
        return self.dormant(admitted), sorted(acting, key=lambda p: (-p.arrived_s, p.program))
