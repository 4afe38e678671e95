"""The cost model of a profile, taken apart into the terms that a bound shares out between programs."""

from __future__ import annotations

from dataclasses import replace

from mars_sglang.core.cost_model import CostModel, Profile

_MANY = 10**9
"""Positions over which a rate is taken, so that rounding leaves it a dozen digits."""


class Terms:
    """A step of the engine takes ``max(compute, memory) + overhead``; compute and memory by what is in the step.

    Compute is ``token_s`` for each new token and ``position_s`` for each attended position. Memory is
    :meth:`weights_s` for the step and ``kv_s`` for each token of KV that its rows read. All in seconds.
    """

    def __init__(self, profile: Profile) -> None:
        self.cost = CostModel(profile)
        self.capacity_tokens = self.cost.kv_capacity_tokens
        self.chunk_tokens = profile.chunked_prefill_tokens
        self.max_running = profile.max_running_requests
        self.overhead_s = profile.gpu.step_overhead_s
        # The formulas stay in the cost model: a GPU without the other limit shows one term alone.
        endless = replace(profile.gpu, bandwidth_bytes_per_s=float("inf"), step_overhead_s=0.0)
        compute = CostModel(replace(profile, gpu=endless))
        memory = CostModel(
            replace(profile, gpu=replace(profile.gpu, peak_flop_per_s=float("inf"), step_overhead_s=0.0))
        )
        model = profile.model
        self._untouched = 1.0 - model.experts_per_token / model.experts if model.experts else 1.0
        one, all_s = (memory.step_s((), tokens, 0) for tokens in (1, _MANY))
        self._experts_s = (all_s - one) / self._untouched if self._untouched else 0.0
        self._always_s = all_s - self._experts_s
        self.token_s = compute.step_s((), 1, 0)
        self.position_s = (compute.step_s((), 1, _MANY) - self.token_s) / _MANY
        self.kv_s = (memory.step_s((), 1, _MANY) - one) / _MANY

    def weights_s(self, tokens):
        """Seconds to read the weights that a step of so many new tokens touches; concave in ``tokens``, a number (also
        between whole ones) or an array."""
        return self._always_s + self._experts_s * (1.0 - self._untouched**tokens)

    def compute_s(self, tokens: float, end: float) -> float:
        """Arithmetic of the ``tokens`` tokens that end at position ``end``: ``[end - tokens, end)``."""
        return tokens * self.token_s + tokens * (end - 0.5 * tokens) * self.position_s

    def shared_s(self, most_tokens: int, compute_share: float) -> tuple[float, float]:
        """``(per step, per token)`` such that a step of ``n`` new tokens pays at least ``step + n * token``.

        What it pays is its overhead and, weighed ``1 - compute_share``, its weights: concave in ``n``, so nowhere in
        ``1 <= n <= most_tokens`` below the chord through both ends.
        """
        one, most = (self.overhead_s + (1 - compute_share) * self.weights_s(n) for n in (1, most_tokens))
        per_token = (most - one) / (most_tokens - 1) if most_tokens > 1 else 0.0
        return one - per_token, per_token
