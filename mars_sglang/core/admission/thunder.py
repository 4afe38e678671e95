"""ThunderAgent's program scheduler (arXiv 2602.13692): total context between two marks of the pool."""

from collections.abc import Sequence

from mars_sglang.core.admission.dormancy import DormancyAdmission
from mars_sglang.core.policy import register_admission_policy
from mars_sglang.core.views import AdmissionDecision, PoolView, ProgramView

#: Shares of the pool: above the first programs are paused, up to the second they resume. Those
#: of Dynamo's port; the authors' own code has one mark, the whole pool.
PAUSE_ABOVE, RESUME_TO = 0.95, 0.80

#: Seconds between two checks of the marks (``scheduler_interval``).
TICK_S = 5.0

#: A program that waited so long starts whatever there is room for (``_wait_for_resume``), so
#: smallest first starves nobody for ever.
RESUME_AFTER_S = 1800.0


@register_admission_policy
class ThunderAdmission(DormancyAdmission):
    """Keep the admitted programs' context between :data:`RESUME_TO` and :data:`PAUSE_ABOVE` of the pool.

    Every :data:`TICK_S` programs above the mark are paused, smallest first: those inside a
    tool at once, then those at work are marked and paused when their turn ends. Then waiting
    ones resume: continuations before new programs, the smallest first while they fit. Between
    ticks only a new program starts, if none waits before it and it fits under the upper mark.
    """

    name = "thunder"

    def __init__(self):
        super().__init__()
        self._ticked_s: float | None = None
        self._marked: dict[str, None] = {}
        """Programs at work that pause when their turn ends. Bounded by the admitted ones."""
        self._queued: dict[str, None] = {}
        """Programs that the last decision left waiting."""

    def decide(
        self,
        admitted: Sequence[ProgramView],
        waiting: Sequence[ProgramView],
        pool: PoolView,
        now_s: float,
    ) -> AdmissionDecision:
        tick = self._ticked_s is None or now_s - self._ticked_s >= TICK_S
        gone = {p.program: None for p in self.dormant(admitted, pool, now_s)} if waiting else {}
        marked = [p for p in _smallest_first(admitted) if p.program in self._marked]
        pause = {p.program: None for p in marked if not p.in_flight} | gone
        self._marked = {p.program: None for p in marked if p.in_flight}
        inside = [p for p in admitted if p.program not in pause]
        used = pool.anonymous_tokens + sum(p.context_tokens for p in inside)
        if tick:
            self._ticked_s = now_s
            used = self._pause_until_safe(inside, used, pool.capacity_tokens, pause)
        admit = self._overdue(waiting, now_s)
        used += sum(p.context_tokens for p in admit)
        overdue = {p.program for p in admit}
        rest = [p for p in waiting if p.program not in overdue]
        admit += _resume(rest, used, pool.capacity_tokens) if tick else self._start_new(rest, used, pool)
        if not admit and waiting and len(pause) == len(admitted):
            admit = _in_order_of_resuming(waiting)[:1]
        started = {p.program for p in admit}
        self._queued = {p.program: None for p in waiting if p.program not in started}
        return AdmissionDecision(pause=tuple(pause), admit=tuple(p.program for p in admit))

    def _pause_until_safe(self, inside: list[ProgramView], used: int, capacity: int, pause: dict[str, None]) -> int:
        """Add to ``pause`` and to the marks until the context is under the mark; what stays inside, in tokens."""
        after = used - sum(p.context_tokens for p in inside if p.program in self._marked)
        candidates = [p for p in _smallest_first(inside) if p.program not in self._marked]
        for p in sorted(candidates, key=lambda p: p.in_flight > 0):
            if after <= PAUSE_ABOVE * capacity:
                break
            after -= p.context_tokens
            if p.in_flight:
                self._marked[p.program] = None
            else:
                pause[p.program] = None
                used -= p.context_tokens
        return used

    def _overdue(self, waiting: Sequence[ProgramView], now_s: float) -> list[ProgramView]:
        overdue = (p for p in waiting if p.waiting_since_s is not None and now_s - p.waiting_since_s >= RESUME_AFTER_S)
        return sorted(overdue, key=lambda p: (p.waiting_since_s, p.program))

    def _start_new(self, waiting: Sequence[ProgramView], used: int, pool: PoolView) -> list[ProgramView]:
        """New programs, in order of arrival up to the first that does not fit, unless somebody waited already."""
        admit: list[ProgramView] = []
        if any(p.program in self._queued or p.turns or p.paused for p in waiting):
            return admit
        for p in sorted(waiting, key=lambda p: (p.arrived_s, p.program)):
            used += p.context_tokens
            if used > PAUSE_ABOVE * pool.capacity_tokens:
                break
            admit.append(p)
        return admit


def _smallest_first(programs: Sequence[ProgramView]) -> list[ProgramView]:
    return sorted(programs, key=lambda p: (p.context_tokens, p.program))


def _in_order_of_resuming(waiting: Sequence[ProgramView]) -> list[ProgramView]:
    return sorted(waiting, key=lambda p: (not (p.turns or p.paused), p.context_tokens, p.program))


def _resume(waiting: Sequence[ProgramView], used: int, capacity: int) -> list[ProgramView]:
    """Who fits under the lower mark, chosen smallest first, started largest first (best fit decreasing)."""
    fits: list[ProgramView] = []
    for p in _in_order_of_resuming(waiting):
        if used + p.context_tokens <= RESUME_TO * capacity:
            used += p.context_tokens
            fits.append(p)
    return sorted(fits, key=lambda p: (-p.context_tokens, p.program))
