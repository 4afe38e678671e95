"""When programs start: at a rate, a fixed number at a time, or all at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Arrivals:
    """At most one of the two; neither means all at once.

    ``rate`` is in programs per emulated second (Poisson), ``concurrency`` how many run at a time, the next
    one starting when one ends.
    """

    rate: float | None = None
    concurrency: int | None = None

    def __post_init__(self) -> None:
        if self.rate is not None and self.concurrency is not None:
            raise ValueError("rate and concurrency: accepted: one of them, or neither for all at once")
        if self.rate is not None and not 0 < self.rate < float("inf"):
            raise ValueError(f"rate: {self.rate}; accepted: programs per second, above 0")
        if self.concurrency is not None and self.concurrency < 1:
            raise ValueError(f"concurrency: {self.concurrency}; accepted: 1 or more programs at a time")

    def times(self, n: int, seed: int) -> list[float]:
        """Earliest start of each of ``n`` programs, emulated seconds after the first; the same for every policy."""
        if self.rate is None:
            return [0.0] * n
        gaps = np.random.default_rng((seed, 1)).exponential(1 / self.rate, n)
        return list(np.cumsum(gaps) - gaps[0])

    def __str__(self) -> str:
        if self.rate is not None:
            return f"Poisson, {self.rate:g} programs/s"
        return f"{self.concurrency} at a time" if self.concurrency is not None else "all at once"
