"""A distribution known by some of its quantiles, as published figures are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Quantiles:
    """Values at given shares; between them, linear in the logarithm, which suits sizes and times.

    ``points`` are ``(share, value)`` in rising order from share 0 to 1, values above 0.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        shares = [share for share, _ in self.points]
        values = [value for _, value in self.points]
        if shares[0] != 0 or shares[-1] != 1 or shares != sorted(shares) or values != sorted(values) or values[0] <= 0:
            raise ValueError(f"points: {self.points}; accepted: rising, from share 0 to share 1, values above 0")

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """``n`` values."""
        return self.at(rng.random(n))

    def at(self, share: np.ndarray | float) -> np.ndarray:
        """The values below which ``share`` of the distribution lies."""
        shares, values = zip(*self.points, strict=True)
        return np.exp(np.interp(share, shares, np.log(values)))
