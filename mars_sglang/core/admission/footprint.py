"""Residency: admit programs, first come first served, while the sum of their footprints fits."""

from collections import deque
from collections.abc import Sequence

from mars_sglang.core.policy import BaseAdmissionPolicy, register_admission_policy
from mars_sglang.core.views import AdmissionDecision, PoolView, ProgramView

#: Share of the pool that admission fills. Simulations: .9 to .95 are alike, under .8 is
#: fragile. The rest is for growth between two decisions and for ended programs' leftovers.
FILL = 0.95

#: How many waiting programs that do not fit may be passed in one decision.
MAX_MISSES = 4

#: How many later programs may start before one that waits. With it, a program too large
#: for the room there is now waits for at most this many others, then for those inside.
MAX_PASSED_OVER = 32

#: Silence counts as the end of a program once it is longer than this share of all pauses.
DORMANT_QUANTILE = 0.98
#: Bounds of that time in seconds; the upper one holds until enough pauses were seen.
DORMANT_MIN_S, DORMANT_MAX_S = 3.0, 30.0
_PAUSES_KEPT, _PAUSES_NEEDED = 1024, 64


@register_admission_policy
class FootprintAdmission(BaseAdmissionPolicy):
    """Keep the admitted programs' KV within the pool.

    No server learns from an unmodified agent that a program is over. So a program that has
    been silent longer than nearly every pause seen gives its place to one that waits; if it
    comes back it is a continuation that resumes by its first arrival, ahead of newcomers.
    """

    name = "mars"

    def __init__(self):
        self._pauses: deque[float] = deque(maxlen=_PAUSES_KEPT)
        self._unsorted = 0
        self._dormant_s = DORMANT_MAX_S

    def observe_pause(self, seconds: float) -> None:
        self._pauses.append(seconds)
        self._unsorted += 1
        # Sorted once per 32 pauses: the quantile moves slowly and the gate is on the request path.
        if len(self._pauses) >= _PAUSES_NEEDED and self._unsorted >= 32:
            self._unsorted = 0
            ranked = sorted(self._pauses)
            pause_s = ranked[int(DORMANT_QUANTILE * (len(ranked) - 1))]
            self._dormant_s = min(max(pause_s, DORMANT_MIN_S), DORMANT_MAX_S)

    @property
    def dormant_s(self) -> float:
        """Silence in seconds after which a program gives up its place to one that waits."""
        return self._dormant_s

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
        idle = [p for p in admitted if not p.in_flight]
        dormant = sorted((p for p in idle if p.idle_s >= self._dormant_s), key=lambda p: (-p.idle_s, p.program))
        acting = sorted((p for p in idle if p.idle_s < self._dormant_s), key=lambda p: (-p.arrived_s, p.program))
        return dormant, acting
