"""What a prefill costs on this server, learned from the steps that it ran."""

from typing import NamedTuple

#: Assumed until steps were seen: seconds per token and per pair of tokens that attend to each
#: other, of the order of an 8B to 30B model on one data-centre GPU.
_TOKEN_S, _PAIR_S = 5e-5, 1e-10

#: Weight of the newest step; 50 steps are a few seconds of load.
_WEIGHT = 0.02


class PrefillPrice(NamedTuple):
    """``token_s x new tokens + pair_s x new tokens x (prefix + new tokens / 2)``.

    The first term is the weights' arithmetic, the second the attention's
    (:mod:`mars_sglang.core.cost_model`). A value, so that it can be handed to other processes.
    """

    token_s: float = _TOKEN_S
    pair_s: float = _PAIR_S
    steps: int = 0
    """From how many steps it was learned."""

    def seconds(self, extend_tokens: int, prefix_tokens: int = 0) -> float:
        """Seconds to prefill ``extend_tokens`` after a prefix of ``prefix_tokens``, alone."""
        return extend_tokens * self.token_s + _pairs(extend_tokens, prefix_tokens) * self.pair_s

    def learned(self, rows: list[tuple[int, int]], seconds: float) -> "PrefillPrice":
        """The price after a step of such rows (new tokens, prefix) took so long.

        One scale for both terms: a step tells one number, and the ratio of the terms is a
        matter of the model's shape.
        """
        expected = sum(self.seconds(extend, prefix) for extend, prefix in rows)
        if expected <= 0 or seconds <= 0:
            return self
        # The first steps count as much as those before them together, or the guess would stay for long.
        weight = max(_WEIGHT, 1 / (self.steps + 1))
        scale = 1 + weight * (seconds / expected - 1)
        return PrefillPrice(self.token_s * scale, self.pair_s * scale, self.steps + 1)


def _pairs(extend_tokens: int, prefix_tokens: int) -> float:
    return extend_tokens * (prefix_tokens + 0.5 * extend_tokens)
