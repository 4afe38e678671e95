"""Residency: admit programs, first come first served, while the sum of their footprints fits."""

from collections.abc import Sequence
from operator import attrgetter

from mars_sglang.core.admission.dormancy import DormancyAdmission
from mars_sglang.core.admission.passed_over import PassedOver
from mars_sglang.core.policy import register_admission_policy
from mars_sglang.core.views import AdmissionDecision, PoolView, ProgramView, TurnOutcome

#: Share of the pool that admission fills. Simulations: .9 to .95 are alike, under .8 is
#: fragile. The rest is for growth between two decisions and for ended programs' leftovers.
FILL = 0.95

#: Why, as decisions say it.
OVERFULL, DORMANT = "memory overfull", "silent for too long, while another waits"
FITS, ALONE = "fits", "nobody else inside"

#: Turns ahead for which an admitted program's growth is reserved. Simulations: 2 to 4 are
#: alike; the smallest leaves the least of the pool idle.
LOOKAHEAD_TURNS = 2

#: Growth per turn in tokens that is assumed until turns were seen: the order of a tool
#: result plus an answer in the shared SWE-bench traces.
INITIAL_GROWTH_TOKENS = 600.0

#: Weight of the newest turn in the moving average of growth (policy simulations: 0.02).
GROWTH_WEIGHT = 0.02


@register_admission_policy
class FootprintAdmission(DormancyAdmission):
    """Keep the admitted programs' KV within the pool. A dormant program that comes back resumes by its first
    arrival, ahead of newcomers.
    """

    name = "footprint"

    def __init__(self):
        super().__init__()
        self._growth_tokens = INITIAL_GROWTH_TOKENS
        self._ahead_tokens = round(LOOKAHEAD_TURNS * INITIAL_GROWTH_TOKENS)
        self._passed_over = PassedOver()

    def footprint_tokens(self, program: ProgramView) -> int:
        """What it holds, and growth for :data:`LOOKAHEAD_TURNS` more turns."""
        return program.context_tokens + self._ahead_tokens

    def observe_turn(self, turn: TurnOutcome, now_s: float) -> None:
        if turn.grown_tokens is not None:
            self._growth_tokens += GROWTH_WEIGHT * (turn.grown_tokens - self._growth_tokens)
            self._ahead_tokens = round(LOOKAHEAD_TURNS * self._growth_tokens)

    def decide(
        self,
        admitted: Sequence[ProgramView],
        waiting: Sequence[ProgramView],
        pool: PoolView,
        now_s: float,
    ) -> AdmissionDecision:
        used = pool.anonymous_tokens + sum(map(self.footprint_tokens, admitted))
        if not waiting and used <= pool.capacity_tokens:
            return AdmissionDecision()
        inside = len(admitted)
        dormant = self.dormant(admitted, pool, now_s)
        acting = self._acting(admitted, dormant) if used > pool.capacity_tokens else []
        pause: list[str] = []
        admit: list[str] = []
        reasons: dict[str, str] = {}

        def step_aside(p: ProgramView, why: str) -> None:
            nonlocal used, inside
            pause.append(p.program)
            reasons[p.program] = why
            used -= self.footprint_tokens(p)
            inside -= 1

        # Growth overfilled the pool: the silent ones go, then who came last and is inside a tool.
        while used > pool.capacity_tokens and (dormant or acting):
            step_aside((dormant or acting).pop(0), OVERFULL)

        room = FILL * pool.capacity_tokens
        reclaimable = sum(map(self.footprint_tokens, dormant))
        missed: list[str] = []
        # A long queue is sorted only for somebody who fits.
        least = min(map(self.footprint_tokens, waiting), default=0)
        fits = used - reclaimable + least <= room or inside == len(dormant)
        for p in sorted(waiting, key=attrgetter("arrived_s", "program")) if fits else ():
            need = self.footprint_tokens(p)
            if used - reclaimable + need <= room or inside == len(dormant):
                while dormant and used + need > room:
                    reclaimable -= self.footprint_tokens(dormant[0])
                    step_aside(dormant.pop(0), DORMANT)
                admit.append(p.program)
                reasons[p.program] = FITS if inside else ALONE
                self._passed_over.count(missed)
                used += need
                inside += 1
                continue
            missed.append(p.program)
            if self._passed_over.ends_queue(missed):
                break
        self._passed_over.settle(admit, waiting)
        return AdmissionDecision(pause=tuple(pause), admit=tuple(admit), reasons=reasons)

    def _acting(self, admitted: Sequence[ProgramView], dormant: list[ProgramView]) -> list[ProgramView]:
        """Programs inside a tool that are not dormant, in the order in which they step aside."""
        silent = {p.program for p in dormant}
        acting = (p for p in admitted if not p.in_flight and p.program not in silent)
        return sorted(acting, key=lambda p: (-p.arrived_s, p.program))
