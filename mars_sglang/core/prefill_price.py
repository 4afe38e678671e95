"""What a prefill costs on this server, learned from the steps that it ran."""

from math import sqrt
from typing import NamedTuple

#: Assumed until steps were seen: seconds per token and per pair of tokens that attend to each other, of the order of an
#: 8B to 30B model on one data-centre GPU, where attention costs as much as the rest at a prompt of about 50K tokens.
_TOKEN_S, _PAIR_S = 5e-5, 2e-9

#: Prefill of a prompt this long tells the price of a token, where one number has to do.
PRICED_TOKENS = 10_000

#: Steps that teach one scale for both terms. After them each term learns by its share of a step.
_FIRST_STEPS = 10

#: Part of the newest step's relative error that is taken out.
_RATE = 0.2


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

    def tokens_in(self, seconds: float, prefix_tokens: int = 0) -> int:
        """How many new tokens after such a prefix take no longer than ``seconds``."""
        linear, quadratic = self.token_s + prefix_tokens * self.pair_s, 0.5 * self.pair_s
        if seconds <= 0:
            return 0
        # The root of quadratic x^2 + linear x = seconds, in the form that does not cancel.
        return int(2 * seconds / (linear + sqrt(linear * linear + 4 * quadratic * seconds)))

    def learned(self, rows: list[tuple[int, int]], seconds: float) -> "PrefillPrice":
        """The price after a step of such rows (new tokens, prefix) took so long.

        The first steps teach one scale, the first of all most, or the guess would stay for long. Then the error is
        taken out of each term by its share of the step (normalised least mean squares, in logarithms), so that steps
        with long and with short prefixes tell the terms apart. A step that took more than half as long again counts as
        such a one.
        """
        tokens_s = self.token_s * sum(extend for extend, _ in rows)
        expected_s = tokens_s + self.pair_s * sum(_pairs(extend, prefix) for extend, prefix in rows)
        if expected_s <= 0 or seconds <= 0:
            return self
        error = seconds / expected_s - 1
        if self.steps < _FIRST_STEPS:
            scale = 1 + error / (self.steps + 1)
            return PrefillPrice(self.token_s * scale, self.pair_s * scale, self.steps + 1)
        share = tokens_s / expected_s
        change = _RATE * min(error, 0.5) / (share**2 + (1 - share) ** 2)
        token_s, pair_s = self.token_s * (1 + change * share), self.pair_s * (1 + change * (1 - share))
        return PrefillPrice(token_s, pair_s, self.steps + 1)


def _pairs(extend_tokens: int, prefix_tokens: int) -> float:
    return extend_tokens * (prefix_tokens + 0.5 * extend_tokens)
