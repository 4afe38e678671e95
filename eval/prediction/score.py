"""Lets a predictor live through a workload, and measures its forecasts before it is told how they ended."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from eval.prediction.order import Pause, Step, What
from eval.prediction.rules import PRICES, RULES, Rivals, bet, deadlines_s
from mars_sglang.core.cost_model import CostModel
from mars_sglang.core.pauses import BUCKETS, EDGES_S, PauseForecast, bucket_of
from mars_sglang.core.prediction import PausePredictor

PROBABILITIES = (0.5, 0.8, 0.95)
LOOKED_AT_S = (2.0, 10.0, 60.0)
"""Forecasts of pauses that have lasted so long are measured too."""

DORMANT_WITHIN_S, DORMANT_BELOW = 600.0, 0.1
"""A program is called dormant when it is back within ten minutes with less than one in ten."""


@dataclass(slots=True)
class Forecast:
    """A forecast, and where the pause fell in it."""

    number: int
    tool: str
    elapsed_s: float
    low: float
    high: float
    """Forecast probabilities at the edges of the pause's bucket."""
    before: tuple[bool, ...]
    """Whether it ended by the forecast's quantile, for each of :data:`PROBABILITIES`."""


@dataclass
class Scores:
    forecasts: list[Forecast] = field(default_factory=list)
    cost: dict[tuple[float, str], float] = field(default_factory=dict)
    """Seconds of GPU by price and rule."""
    oracle: dict[float, float] = field(default_factory=dict)
    never_ended: int = 0
    """Pauses after a last turn of which the end was not said."""
    called_dormant: list[tuple[float, float]] = field(default_factory=list)
    """Pauses called dormant: after how long, and how long they lasted."""

    def ratio(self, price: float, rule: str) -> float:
        """Cost of a rule in the oracle's."""
        return self.cost[price, rule] / self.oracle[price]

    def mean_ratio(self, rule: str) -> float:
        return sum(self.ratio(price, rule) for price in PRICES) / len(PRICES)


def coverage(forecasts: Iterable[Forecast], probability: float) -> float:
    """Share of pauses that ended before the quantile of this probability, times known to within a bucket.

    Recorded times are rounded: a fifth of the SWE-bench pauses are 1.0 s to the last digit. Where a quantile falls into
    the bucket of the pause, the part of the bucket's probability that lies before the quantile counts as before it
    (the non-randomised form of the probability integral transform: Czado, Gneiting and Held, Biometrics 65, 2009).
    """
    shares = [_share(probability, f.low, f.high) for f in forecasts]
    return float(np.mean(shares)) if shares else math.nan


def coverage_to_the_digit(forecasts: Iterable[Forecast], index: int) -> float:
    """The same, for a probability of :data:`PROBABILITIES`, with recorded times taken for exact."""
    shares = [f.before[index] for f in forecasts]
    return float(np.mean(shares)) if shares else math.nan


def _share(probability: float, low: float, high: float) -> float:
    if high <= low:
        return float(probability >= high)
    return min(1.0, max(0.0, (probability - low) / (high - low)))


def score(steps: Iterable[Step], predictor: PausePredictor, cost: CostModel) -> Scores:
    """Everything measured in one pass."""
    scores = Scores(cost={(price, rule): 0.0 for price in PRICES for rule in RULES}, oracle=dict.fromkeys(PRICES, 0.0))
    rivals = Rivals()
    told_s: dict[int, float] = {}
    dormant: set[int] = set()
    for step in steps:
        pause = step.pause
        if step.what is What.START:
            forecast = predictor.predict(pause.key)
            scores.forecasts.append(_placed(forecast, pause))
            if pause.seconds < math.inf:
                _decide(scores, forecast, rivals, pause, cost)
            else:
                scores.never_ended += 1
        elif step.what is What.END:
            predictor.observe(pause.key, pause.seconds, since_s=told_s.pop(pause.number, 0.0))
            rivals.observe(pause.key, pause.seconds)
            dormant.discard(pause.number)
        elif pause.number not in dormant:
            forecast = predictor.predict(pause.key, step.elapsed_s)
            if step.elapsed_s in LOOKED_AT_S:
                scores.forecasts.append(_placed(forecast, pause))
            predictor.still_out(pause.key, step.elapsed_s, since_s=told_s.get(pause.number, 0.0))
            told_s[pause.number] = step.elapsed_s
            if forecast.dormant(DORMANT_WITHIN_S, DORMANT_BELOW):
                scores.called_dormant.append((step.elapsed_s, pause.seconds))
                dormant.add(pause.number)
    return scores


def _placed(forecast: PauseForecast, pause: Pause) -> Forecast:
    bucket = bucket_of(pause.seconds)
    low = 1.0 - forecast.survival(float(EDGES_S[bucket]))
    high = 1.0 - forecast.survival(float(EDGES_S[bucket + 1])) if bucket < BUCKETS else 1.0
    before = tuple(pause.seconds <= forecast.quantile(probability) for probability in PROBABILITIES)
    return Forecast(pause.number, pause.key.tool, forecast.elapsed_s, low, high, before)


def _decide(scores: Scores, forecast: PauseForecast, rivals: Rivals, pause: Pause, cost: CostModel) -> None:
    """One decision holds for the whole pause: the best deadline stays the best while the pause goes on."""
    for price in PRICES:
        stake = bet(cost, pause.context_tokens, price)
        scores.oracle[price] += stake.oracle(pause.seconds)
        for rule, deadline_s in deadlines_s(forecast, rivals, pause.key, stake.worth_s).items():
            scores.cost[price, rule] += stake.cost(pause.seconds, deadline_s)
