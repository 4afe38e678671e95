"""Token ids of contexts that are measured with."""

from __future__ import annotations

from array import array

import numpy as np

_VOCABULARY = 150_000


def tokens(seed: int, count: int) -> array:
    """A context of its own: no two seeds share a prefix."""
    drawn = array("q")
    drawn.frombytes(np.random.default_rng(seed).integers(0, _VOCABULARY, count, dtype=np.int64).tobytes())
    drawn[0] = _VOCABULARY + seed
    return drawn
