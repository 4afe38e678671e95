"""Continuum: KV is pinned through a tool call for a time to live (arXiv:2511.02230)."""

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass
from math import sqrt
from statistics import fmean

from mars_sglang.core.policies.bounded_table import BoundedTable
from mars_sglang.core.policies.pinning import PinningTurnPolicy
from mars_sglang.core.policy import register_turn_policy
from mars_sglang.core.views import (
    ContextView,
    ProgramOver,
    ToolKnown,
    TurnArrived,
    TurnEnded,
    TurnEvent,
    TurnStarted,
)

#: The paper's time to live while it knows too little, and always in its fixed form.
FIXED_TTL_S = 2.0

#: The paper's least number of tool times to optimise over, and of a tool to be looked at by itself.
MIN_SAMPLES = 100

#: The paper's number of latest delays from preemption to resumption that are averaged.
DELAYS_AVERAGED = 200

#: Tool times remembered, of each tool and of all, and tools remembered. The paper names no bound; its
#: optimum is over a distribution, which a thousand samples give to within a few percent.
MAX_SAMPLES, MAX_TOOLS = 1024, 256


class ToolTimes:
    """The latest times of a tool, in seconds."""

    def __init__(self):
        self._latest: deque[float] = deque()
        self._ranked: list[float] = []

    def __len__(self) -> int:
        return len(self._ranked)

    def add(self, seconds: float) -> None:
        self._latest.append(seconds)
        insort(self._ranked, seconds)
        if len(self._latest) > MAX_SAMPLES:
            del self._ranked[bisect_left(self._ranked, self._latest.popleft())]

    def mean_s(self) -> float:
        return fmean(self._ranked)

    def best_ttl_s(self, worth_s: float) -> float:
        """argmax of ``P(T <= t) x worth - t`` over 0 and the times seen; the shortest of equals."""
        best_s, best_gain = 0.0, 0.0
        for rank, seconds in enumerate(self._ranked, start=1):
            if seconds >= worth_s:
                break
            gain = rank / len(self._ranked) * worth_s - seconds
            if gain > best_gain:
                best_s, best_gain = seconds, gain
        return best_s


class TurnsLeft:
    """How well the turns that a program has done tell how many it has left."""

    def __init__(self):
        self._n = self._x = self._y = self._xx = self._yy = self._xy = 0

    def finished(self, turns: int) -> None:
        """A program ended after ``turns`` turns: the pairs (i, turns - i) of all i in 1..turns."""
        n = turns
        self._n += n
        self._x += n * (n + 1) // 2
        self._y += n * (n - 1) // 2
        self._xx += n * (n + 1) * (2 * n + 1) // 6
        self._yy += (n - 1) * n * (2 * n - 1) // 6
        self._xy += n * (n + 1) * (n - 1) // 6

    def eta(self) -> float:
        """Minus the correlation of turn index with turns remaining; 1 where nothing tells.

        Below 0 where few programs are long among many short: who has done much then has much left.
        """
        n = self._n
        spread = (n * self._xx - self._x**2) * (n * self._yy - self._y**2)
        if spread <= 0:
            return 1.0
        return (self._x * self._y - n * self._xy) / sqrt(spread)


@dataclass(slots=True)
class _Program:
    turns: int = 0
    context_tokens: int = 0
    ended_s: float = 0.0
    acting: bool = False
    """Whether it is inside a tool call."""
    tool: str | None = None


@register_turn_policy
class ContinuumTurnPolicy(PinningTurnPolicy):
    """Continuum with its dynamic time to live.

    ``TTL = argmax P(T <= t) x B - t`` with ``B = T_q x eta + reload(tokens)`` (section 4 of the paper), T the
    tool's time, T_q the mean delay from preemption to resumption, reload the prefill of the whole context.
    """

    name = "continuum"

    def __init__(self):
        super().__init__()
        self._programs: BoundedTable[_Program] = BoundedTable(_Program)
        self._tools: BoundedTable[ToolTimes] = BoundedTable(ToolTimes, MAX_TOOLS)
        self._all_tools = ToolTimes()
        self._delays_s: deque[float] = deque(maxlen=DELAYS_AVERAGED)
        self._turns_left = TurnsLeft()

    def observe(self, event: TurnEvent, now_s: float) -> None:
        match event:
            case TurnArrived(program=str(program)):
                self._came_back(program, event.pause_s, now_s)
            case TurnStarted():
                if event.retractions:
                    self._delays_s.append(event.waited_s)
                if event.program is not None:
                    self._pins.drop(event.program)
            case TurnEnded(program=str(program)):
                known = self._programs.touch(program)
                known.turns += 1
                known.context_tokens = event.prompt_tokens + event.output_tokens
                known.ended_s, known.acting, known.tool = now_s, True, None
                if event.last:
                    self._over(program)
                else:
                    self._pin(program, known)
            case ToolKnown():
                known = self._programs.get(event.program)
                if known is not None and known.acting:
                    known.tool = event.tool
                    self._pin(event.program, known)
            case ProgramOver():
                self._over(event.program)

    def _came_back(self, program: str, pause_s: float | None, now_s: float) -> None:
        self._pins.came_back(program, now_s)
        known = self._programs.get(program)
        if known is None or not known.acting:
            return
        known.acting = False
        if pause_s is not None:
            self._all_tools.add(pause_s)
            if known.tool is not None:
                self._tools.touch(known.tool).add(pause_s)

    def _pin(self, program: str, known: _Program) -> None:
        ttl_s = self._ttl_s(known.context_tokens, known.tool)
        if ttl_s > 0:
            self._pins.pin(program, known.ended_s + ttl_s)
        else:
            self._pins.drop(program)

    def _over(self, program: str) -> None:
        self._pins.drop(program)
        if (known := self._programs.pop(program)) is not None:
            self._turns_left.finished(known.turns)

    def _ttl_s(self, context_tokens: int, tool: str | None) -> float:
        of_tool = self._tools.get(tool)
        times = of_tool if of_tool is not None and len(of_tool) >= MIN_SAMPLES else self._all_tools
        if len(times) < MIN_SAMPLES:
            return FIXED_TTL_S
        delay_s = fmean(self._delays_s) if self._delays_s else 0.0
        return times.best_ttl_s(delay_s * self._turns_left.eta() + self._engine.prefill_s(context_tokens, 0))

    def pin_rank(self, context: ContextView) -> float:
        """Latest expiry first."""
        return -self._pins.until_s(context.program)


@register_turn_policy
class ContinuumFixedTurnPolicy(ContinuumTurnPolicy):
    """Continuum with a time to live of 2 s, or none where the tool takes longer on the average."""

    name = "continuum-fixed"

    def _ttl_s(self, context_tokens: int, tool: str | None) -> float:
        times = self._all_tools if tool is None else self._tools.get(tool)
        return 0.0 if times and times.mean_s() > FIXED_TTL_S else FIXED_TTL_S
