"""CONCUR (arXiv 2601.22705): a window over active programs, driven by cache signals like congestion control."""

from collections.abc import Sequence

from mars_sglang.core.admission.dormancy import DormancyAdmission
from mars_sglang.core.policy import register_admission_policy
from mars_sglang.core.views import AdmissionDecision, PoolView, ProgramView, TurnOutcome

#: The paper's constants, the same for all its models and workloads: programs added, factor of
#: a cut, KV usage below which the window grows, usage above which and hit rate below which it is cut.
ALPHA, BETA = 2.0, 0.5
USAGE_LOW, USAGE_HIGH = 0.2, 0.5
HIT_RATE_LOW = 0.2

#: Seconds between two steps of the window. Assumed: the sources seen give no value. Long
#: enough for some turns to end in it, so that the hit rate is one of now.
CONTROL_S = 5.0

#: Programs at the start. Assumed: where one increase takes an empty window.
WINDOW_START = ALPHA
WINDOW_MIN = 1.0


@register_admission_policy
class ConcurAdmission(DormancyAdmission):
    """W + alpha while KV usage U is low, W x beta while U is high and the hit rate H low, else W.

    U is what turns in flight hold, as a share of the pool: SGLang's own token usage, which leaves
    out what is merely cached. H is, over the turns answered since the last step, what the
    cache gave of what it had known. The window grows only while programs wait: the paper's
    batches always do, and a window nobody asks for says nothing of the cache.
    """

    name = "concur"

    def __init__(self):
        super().__init__()
        self._window = WINDOW_START
        self._stepped_s: float | None = None
        self._cached = self._known = 0
        self._hit_rate = 1.0

    @property
    def window(self) -> float:
        """Programs that may be active, before rounding down."""
        return self._window

    def observe_turn(self, turn: TurnOutcome, now_s: float) -> None:
        # A shared prefix may give a first turn more than its program had known.
        self._cached += min(turn.cached_tokens, turn.known_tokens)
        self._known += turn.known_tokens

    def decide(
        self,
        admitted: Sequence[ProgramView],
        waiting: Sequence[ProgramView],
        pool: PoolView,
        now_s: float,
    ) -> AdmissionDecision:
        usage = pool.referenced_tokens / pool.capacity_tokens
        if self._stepped_s is None:
            self._stepped_s = now_s
        elif now_s - self._stepped_s >= CONTROL_S:
            self._stepped_s = now_s
            self._step(usage, bool(waiting))
        limit = int(self._window)
        pause = {p.program: None for p in self.dormant(admitted, pool, now_s)} if waiting else {}
        latest_idle = sorted(
            (p for p in admitted if not p.in_flight and p.program not in pause),
            key=lambda p: (-p.arrived_s, p.program),
        )
        for p in latest_idle[: max(0, len(admitted) - len(pause) - limit)]:
            pause[p.program] = None
        room = limit - (len(admitted) - len(pause))
        queue = sorted(waiting, key=lambda p: (p.arrived_s, p.program))
        return AdmissionDecision(pause=tuple(pause), admit=tuple(p.program for p in queue[: max(0, room)]))

    def _step(self, usage: float, waiting: bool) -> None:
        if self._known:
            self._hit_rate = self._cached / self._known
            self._cached = self._known = 0
        if usage < USAGE_LOW:
            self._window += ALPHA * waiting
        elif usage > USAGE_HIGH and self._hit_rate < HIT_RATE_LOW:
            self._window = max(WINDOW_MIN, self._window * BETA)
