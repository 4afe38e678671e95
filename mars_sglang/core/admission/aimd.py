"""MARS's admission window as the preview of its authors runs it (arXiv 2604.26963, section on the control plane)."""

import math
from collections.abc import Sequence

from mars_sglang.core.admission.dormancy import DormancyAdmission
from mars_sglang.core.policy import register_admission_policy
from mars_sglang.core.views import AdmissionDecision, PoolView, ProgramView, ToolsView

#: Defaults of the preview. Programs at most, and at the start; at least; added; kept of a cut.
POOL, WINDOW_MIN, ALPHA, BETA = 30, 4, 1, 0.7
#: Seconds between two steps of the window, at least.
CONTROL_S = 0.2
#: Share of the pool that turns in flight hold: overloaded from the first on, no longer from the second down.
KV_HIGH, KV_LOW = 0.90, 0.85
#: Tools that run or wait, per slot, and seconds that one waits: overloaded from the first on, healthy to the second.
TOOLS_HIGH, TOOLS_LOW = 2.0, 1.0
TOOL_WAIT_HIGH_S, TOOL_WAIT_LOW_S = 5.0, 2.0
#: A first prompt above this is long; so many long programs at a time, and none before no short
#: one has waited for this many seconds.
LONG_TOKENS, MAX_LONG, NO_SHORT_S = 50_000, 2, 1.0


@register_admission_policy
class AimdAdmission(DormancyAdmission):
    """Additive increase, multiplicative decrease, on two pressures: tools, and KV of turns in flight.

    Programs inside a tool count against the window and not as KV, so the window lets in more
    than the pool holds wherever thirty programs do not happen to fit: that is the preview's
    rule, and the reason for :mod:`mars_sglang.core.admission.footprint`. Nobody is paused but the dormant.
    """

    name = "aimd"

    def __init__(self):
        super().__init__()
        self._window = POOL
        self._stepped_s: float | None = None
        self._tools_overloaded = False
        self._kv_overloaded = False
        self._no_short_since_s: float | None = None
        self._long: dict[str, None] = {}
        """Long programs that were let in and are still inside."""

    @property
    def window(self) -> int:
        """W, before the caps by tools and KV."""
        return self._window

    def decide(
        self,
        admitted: Sequence[ProgramView],
        waiting: Sequence[ProgramView],
        pool: PoolView,
        now_s: float,
    ) -> AdmissionDecision:
        usage = min(1.0, pool.referenced_tokens / pool.capacity_tokens)
        self._hear(usage, pool.tools)
        limit = self._limit(usage, pool, now_s)
        self._hear_queue(waiting, now_s)
        pause = [p.program for p in self.dormant(admitted, pool, now_s)] if waiting else []
        inside = [p.program for p in admitted if p.program not in pause]
        self._long = {program: None for program in inside if program in self._long}
        admit = self._fill(waiting, len(inside), limit, _free_tokens(pool), usage, pool.tools, now_s)
        if not admit and waiting and not inside:
            admit = _by_size(waiting)[:1]
        self._long |= {p.program: None for p in admit if _is_long(p)}
        return AdmissionDecision(pause=tuple(pause), admit=tuple(p.program for p in admit))

    def _hear(self, usage: float, tools: ToolsView | None) -> None:
        """Both overloads, each with hysteresis."""
        self._kv_overloaded = usage > KV_LOW if self._kv_overloaded else usage >= KV_HIGH
        wait_s = tools.wait_s if tools is not None else 0.0
        if self._tools_overloaded:
            self._tools_overloaded = not _tools_healthy(tools)
        else:
            self._tools_overloaded = _per_slot(tools) >= TOOLS_HIGH or wait_s >= TOOL_WAIT_HIGH_S

    def _hear_queue(self, waiting: Sequence[ProgramView], now_s: float) -> None:
        if not all(_is_long(p) for p in waiting):
            self._no_short_since_s = None
        elif self._no_short_since_s is None:
            self._no_short_since_s = now_s

    def _limit(self, usage: float, pool: PoolView, now_s: float) -> int:
        """min(W, W_tools, W_kv), with W one step further where one is due."""
        caps = min(_tools_cap(pool.tools), _kv_cap(usage))
        if self._stepped_s is None or now_s - self._stepped_s >= CONTROL_S:
            self._stepped_s = now_s
            if self._tools_overloaded or self._kv_overloaded:
                self._window = math.floor(self._window * BETA)
            elif _tools_healthy(pool.tools) and usage <= KV_LOW:
                self._window += ALPHA
            self._window = max(WINDOW_MIN, min(self._window, caps))
        return min(self._window, caps)

    def _fill(
        self,
        waiting: Sequence[ProgramView],
        inside: int,
        limit: int,
        free: int,
        usage: float,
        tools: ToolsView | None,
        now_s: float,
    ) -> list[ProgramView]:
        """Who starts, in packing order: up to ``limit``, each only if its prompt fits into the ``free`` tokens."""
        room = max(0, limit - inside)
        short_waits = not all(_is_long(p) for p in waiting)
        quiet = self._no_short_since_s is not None and now_s - self._no_short_since_s >= NO_SHORT_S
        if self._tools_overloaded:
            # A long prefill keeps the GPU at work while the tools drain: no bound on long ones here.
            order, long_room = sorted(_by_size(waiting), key=lambda p: -p.context_tokens), room
        else:
            may_start_long = not short_waits and not self._kv_overloaded and (quiet or not inside)
            long_room = max(0, MAX_LONG - len(self._long)) if may_start_long else 0
            light = _tools_healthy(tools) and usage <= KV_LOW and len(waiting) <= room
            by_arrival = light or not short_waits
            order = sorted(waiting, key=lambda p: (p.arrived_s, p.program)) if by_arrival else _by_size(waiting)
        admit: list[ProgramView] = []
        for p in order:
            if len(admit) >= room:
                break
            if p.context_tokens > free or (_is_long(p) and not long_room):
                continue
            admit.append(p)
            free -= p.context_tokens
            long_room -= _is_long(p)
        return admit


def _is_long(p: ProgramView) -> bool:
    return p.context_tokens > LONG_TOKENS


def _by_size(programs: Sequence[ProgramView]) -> list[ProgramView]:
    return sorted(programs, key=lambda p: (p.context_tokens, p.arrived_s, p.program))


def _free_tokens(pool: PoolView) -> int:
    """What turns in flight leave of the pool, less the reserve above the high mark."""
    return pool.capacity_tokens - math.ceil((1.0 - KV_HIGH) * pool.capacity_tokens) - pool.referenced_tokens


def _per_slot(tools: ToolsView | None) -> float:
    return (tools.active + tools.queued) / tools.slots if tools is not None and tools.slots else 0.0


def _tools_healthy(tools: ToolsView | None) -> bool:
    return _per_slot(tools) <= TOOLS_LOW and (tools is None or tools.wait_s <= TOOL_WAIT_LOW_S)


def _tools_cap(tools: ToolsView | None) -> int:
    """Midway between the two marks of load, per slot."""
    if tools is None or not tools.slots:
        return POOL
    return max(WINDOW_MIN, min(POOL, math.ceil(tools.slots * (TOOLS_LOW + TOOLS_HIGH) / 2)))


def _kv_cap(usage: float) -> int:
    """The whole pool of programs up to the low mark, the least from the high mark on, a line between."""
    share = min(1.0, max(0.0, (usage - KV_LOW) / (KV_HIGH - KV_LOW)))
    return round(POOL - share * (POOL - WINDOW_MIN))
