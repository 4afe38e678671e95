"""Rules that say until when to keep a context whose program is in a pause, and what that costs.

Costs are in seconds of the GPU. Holding a share ``x`` of the KV pool for ``t`` seconds costs ``price x t``: at price
1, a full pool is worth the whole GPU. Giving it up costs a prefill of the context when the program returns. The
ratio of the two, ``worth_s``, is how long holding is cheaper than prefilling again.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from mars_sglang.core.cost_model import CostModel
from mars_sglang.core.pauses import PauseForecast, PauseKey

PRICES = (0.1, 0.3, 1.0, 3.0, 10.0)
"""From a pool that is rarely short to one where ten times its size is wanted."""

OURS = "ours"
RIVALS = ("last value", "last value, no limit", "mean per tool", "mean per tool, no limit", "fixed 2 s")
ANCHORS = ("break-even", "always keep", "never keep")
RULES = (OURS, *RIVALS, *ANCHORS)

_FIXED_S = 2.0


class Bet(NamedTuple):
    """What is at stake in a pause at a price."""

    hold_per_s: float
    remake_s: float

    @property
    def worth_s(self) -> float:
        return self.remake_s / self.hold_per_s

    def cost(self, seconds: float, deadline_s: float) -> float:
        """Of keeping until the deadline, in a pause of so many seconds."""
        if seconds <= deadline_s:
            return self.hold_per_s * seconds
        return self.hold_per_s * deadline_s + self.remake_s

    def oracle(self, seconds: float) -> float:
        """The least that one who knows the pause can pay."""
        return min(self.hold_per_s * seconds, self.remake_s)


def bet(cost: CostModel, context_tokens: int, price: float) -> Bet:
    return Bet(price * context_tokens / cost.kv_capacity_tokens, cost.prefill_s(context_tokens))


class Rivals:
    """Simple rules with what they have seen, per tool and command.

    A point prediction says keep or give up: keep when it is less than ``worth_s``. Kept contexts go after ``worth_s``,
    which bounds the loss of a wrong guess (at most twice the oracle's cost: Karlin et al., Algorithmica 3, 1988), or,
    as "no limit", never. Both also start from 2 s.
    """

    def __init__(self) -> None:
        self._last: dict[tuple, float] = {}
        self._sums: dict[tuple, tuple[float, int]] = {}

    def observe(self, key: PauseKey, seconds: float) -> None:
        name = key[:2]
        total, count = self._sums.get(name, (0.0, 0))
        self._last[name], self._sums[name] = seconds, (total + seconds, count + 1)

    def deadlines_s(self, key: PauseKey, worth_s: float) -> dict[str, float]:
        name = key[:2]
        total, count = self._sums.get(name, (_FIXED_S, 1))
        last, mean = self._last.get(name, _FIXED_S) < worth_s, total / count < worth_s
        return {
            "last value": worth_s if last else 0.0,
            "last value, no limit": math.inf if last else 0.0,
            "mean per tool": worth_s if mean else 0.0,
            "mean per tool, no limit": math.inf if mean else 0.0,
            "fixed 2 s": _FIXED_S,
            "break-even": worth_s,
            "always keep": math.inf,
            "never keep": 0.0,
        }


def deadlines_s(forecast: PauseForecast, rivals: Rivals, key: PauseKey, worth_s: float) -> dict[str, float]:
    """Of every rule of :data:`RULES`."""
    return {OURS: forecast.deadline_s(worth_s), **rivals.deadlines_s(key, worth_s)}
