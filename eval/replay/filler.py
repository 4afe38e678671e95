"""Text of a wanted length in tokens: common words, one token each with the space before them."""

from __future__ import annotations

import zlib

import numpy as np

from mars_sglang.emulation.words import WORDS

_WORDS = tuple(" " + word.strip() for word in WORDS)


class Filler:
    """A stream of words of its own for each key: equal keys give equal text, others share none by accident."""

    def __init__(self, seed: int, key: str) -> None:
        self._rng = np.random.default_rng((seed, zlib.crc32(key.encode())))

    def words(self, n: int) -> bytes:
        """The next ``n`` words, a space before each. ASCII without quotes, so it is its own JSON encoding."""
        picks = self._rng.integers(0, len(_WORDS), n).tolist()
        return "".join(map(_WORDS.__getitem__, picks)).encode()


class SharedText:
    """The tool definitions and system prompt that programs have in common, as far as their lengths agree."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], bytes] = {}

    def words(self, tools: int, system: int) -> bytes:
        """``tools`` words of the one text and then ``system`` words of the other, the same for every program."""
        text = self._known.get((tools, system))
        if text is None:
            # No seed of the run in it: like real tool definitions, it is the same today and tomorrow.
            text = Filler(0, "shared tools").words(tools) + Filler(0, "shared system").words(system)
            self._known[(tools, system)] = text
        return text
