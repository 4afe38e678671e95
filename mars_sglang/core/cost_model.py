"""How long a GPU takes for a batch, and how many tokens of KV fit: the one place for the formulas.

Shared by the emulated engine, the simulator and the policies that price a recompute.

* **Roofline** (Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009): a step takes the
  longer of its arithmetic and its memory traffic, plus a fixed overhead for launches.
* **Dense arithmetic**: 2 FLOP (multiply, add) per active parameter and new token (Kaplan et al.,
  arXiv:2001.08361, section 2.1). The input embedding is a lookup, so it counts in neither
  arithmetic nor traffic.
* **Attention arithmetic**: 4 FLOP (QK and AV, each multiply and add) per layer, head, head
  dimension and attended position. Causal: a row that extends a prefix of ``p`` tokens by ``n``
  attends to ``n * (p + n / 2)`` positions.
* **Experts read by a batch** of ``n`` tokens that choose ``k`` of ``E`` uniformly and
  independently: ``E * (1 - (1 - k / E) ** n)`` per layer.
* **KV bytes per token**: ``2 * layers * kv_heads * head_dim * dtype bytes`` (K and V).

Every row, decoding or extending, reads the KV it attends to once per step (an exact
attention kernel that keeps a tile of queries on the chip; FlashAttention, arXiv:2205.14135).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

_FLOP_PER_PARAM = 2.0
_ATTENTION_FLOP = 4.0


class ProfileError(ValueError):
    """A figure that no GPU or model can have; the message names field, value and accepted form."""


def _require(owner: object, names: Sequence[str], accepted: str, holds) -> None:
    for name in names:
        value = getattr(owner, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not holds(value):
            raise ProfileError(f"{type(owner).__name__}.{name} is {value!r}; accepted: {accepted}")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A transformer with grouped-query attention, dense or with experts."""

    name: str
    """As clients name it."""
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context_tokens: int
    """Longest sequence."""
    total_params: float
    """Of the whole model: what the weights occupy."""
    active_params: float
    """Used for one token, input embedding included, as model cards count."""
    dtype_bytes: int = 2
    """Per weight and per KV element."""
    experts: int = 0
    """Per layer; 0 for a dense model."""
    experts_per_token: int = 0
    expert_hidden: int = 0
    """Intermediate size of one expert (three projections, gate, up and down)."""

    def __post_init__(self) -> None:
        whole = ("layers", "hidden", "heads", "kv_heads", "head_dim", "vocab", "context_tokens", "dtype_bytes")
        _require(self, whole, "a whole number of at least 1", lambda v: v >= 1 and v == int(v))
        moe = ("experts", "experts_per_token", "expert_hidden")
        _require(self, moe, "a whole number of at least 0", lambda v: v >= 0 and v == int(v))
        _require(self, ("total_params",), "a number above 0", lambda v: v > 0)
        _require(self, ("active_params",), "above 0 and at most total_params", lambda v: 0 < v <= self.total_params)
        if self.experts and not 0 < self.experts_per_token <= self.experts:
            raise ProfileError(
                f"ModelShape.experts_per_token is {self.experts_per_token}; accepted: 1 to experts ({self.experts})"
            )
        if self.experts and not self.expert_hidden:
            raise ProfileError("ModelShape.expert_hidden is 0; accepted: at least 1 when there are experts")
        if self.always_read_params <= 0:
            raise ProfileError(
                f"ModelShape.total_params is {self.total_params!r}; accepted: more than embedding and experts have"
            )

    @property
    def embedding_params(self) -> float:
        """Of the input embedding, a lookup."""
        return float(self.vocab * self.hidden)

    @property
    def one_expert_params(self) -> float:
        """Of one expert in all layers."""
        return 3.0 * self.hidden * self.expert_hidden * self.layers

    @property
    def always_read_params(self) -> float:
        """Read by every step, however small the batch."""
        return self.total_params - self.embedding_params - self.experts * self.one_expert_params

    @property
    def weight_bytes(self) -> float:
        return self.total_params * self.dtype_bytes

    @property
    def kv_bytes_per_token(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype_bytes


@dataclass(frozen=True, slots=True)
class Gpu:
    """One accelerator: its data sheet, and the share of it that serving gets."""

    name: str
    memory_bytes: float
    bandwidth_bytes_per_s: float
    peak_flop_per_s: float
    """Dense (no sparsity), in the data type of the weights."""
    matmul_efficiency: float
    """Share of the peak that the weights' matrix products reach in a large prefill."""
    attention_efficiency: float
    """Share of the peak that prefill attention reaches."""
    bandwidth_efficiency: float
    """Share of the bandwidth that decoding reaches."""
    step_overhead_s: float
    """Per step, whatever is in it: launches, synchronisation, sampling."""
    host_link_bytes_per_s: float
    """One direction, between GPU and host memory, for KV kept on the host."""

    def __post_init__(self) -> None:
        positive = ("memory_bytes", "bandwidth_bytes_per_s", "peak_flop_per_s", "host_link_bytes_per_s")
        _require(self, positive, "a number above 0", lambda v: v > 0)
        shares = ("matmul_efficiency", "attention_efficiency", "bandwidth_efficiency")
        _require(self, shares, "a share above 0, at most 1", lambda v: 0 < v <= 1)
        _require(self, ("step_overhead_s",), "seconds, 0 or more", lambda v: v >= 0)


@dataclass(frozen=True, slots=True)
class Profile:
    """A model on a GPU, with what the server would have chosen there."""

    name: str
    description: str
    model: ModelShape
    gpu: Gpu
    memory_fraction: float
    """Share of GPU memory for weights and KV (SGLang's ``--mem-fraction-static``)."""
    activation_reserve_bytes: float = 0.0
    """Kept free inside that share."""
    chunked_prefill_tokens: int = 8192
    max_running_requests: int = 256

    def __post_init__(self) -> None:
        _require(self, ("memory_fraction",), "a share above 0, at most 1", lambda v: 0 < v <= 1)
        _require(self, ("activation_reserve_bytes",), "bytes, 0 or more", lambda v: v >= 0)
        whole = ("chunked_prefill_tokens", "max_running_requests")
        _require(self, whole, "a whole number of at least 1", lambda v: v >= 1 and v == int(v))


class CostModel:
    """Seconds and tokens of one profile. Pure and cheap: a few microseconds per call.

    Raises:
        ProfileError: the weights leave no room for KV.
    """

    def __init__(self, profile: Profile) -> None:
        model, gpu = profile.model, profile.gpu
        self.profile = profile
        free_bytes = gpu.memory_bytes * profile.memory_fraction - model.weight_bytes - profile.activation_reserve_bytes
        self.kv_capacity_tokens = int(free_bytes // model.kv_bytes_per_token)
        """Tokens whose KV fits beside the weights."""
        if self.kv_capacity_tokens < 1:
            raise ProfileError(
                f"Gpu.memory_bytes is {gpu.memory_bytes!r}; accepted: more than the weights "
                f"({model.weight_bytes:.3g} bytes) take of its share ({profile.memory_fraction})"
            )
        active = model.active_params - model.embedding_params
        self._matmul_s_per_token = _FLOP_PER_PARAM * active / (gpu.peak_flop_per_s * gpu.matmul_efficiency)
        attention_flop = _ATTENTION_FLOP * model.layers * model.heads * model.head_dim
        self._attention_s_per_position = attention_flop / (gpu.peak_flop_per_s * gpu.attention_efficiency)
        bytes_per_s = gpu.bandwidth_bytes_per_s * gpu.bandwidth_efficiency
        self._kv_s_per_token = model.kv_bytes_per_token / bytes_per_s
        self._always_s = model.always_read_params * model.dtype_bytes / bytes_per_s
        self._experts_s = model.experts * model.one_expert_params * model.dtype_bytes / bytes_per_s
        self._untouched = 1.0 - model.experts_per_token / model.experts if model.experts else 1.0
        self._overhead_s = gpu.step_overhead_s

    def step_s(
        self,
        extend: Sequence[tuple[int, int]] = (),
        decode_batch: int = 0,
        decode_context_tokens: int = 0,
    ) -> float:
        """Seconds on the GPU for one batch; 0 for an empty one.

        Args:
            extend: per prefilling row, its new tokens and the tokens of prefix already in KV.
            decode_batch: rows that produce one token each.
            decode_context_tokens: positions that those rows attend to, summed.
        """
        new_tokens = decode_batch
        positions = decode_context_tokens
        kv_tokens = decode_context_tokens
        for length, prefix in extend:
            new_tokens += length
            positions += length * (prefix + 0.5 * length)
            kv_tokens += length + prefix
        if new_tokens <= 0:
            return 0.0
        compute_s = new_tokens * self._matmul_s_per_token + positions * self._attention_s_per_position
        touched = 1.0 - self._untouched**new_tokens
        memory_s = self._always_s + touched * self._experts_s + kv_tokens * self._kv_s_per_token
        return max(compute_s, memory_s) + self._overhead_s

    def prefill_s(self, extend_tokens: int, prefix_tokens: int = 0) -> float:
        """Seconds to prefill ``extend_tokens`` after ``prefix_tokens``, alone and in one step."""
        return self.step_s(((extend_tokens, prefix_tokens),))

    def decode_step_s(self, batch: int, context_tokens_total: int) -> float:
        """Seconds for one token of each of ``batch`` rows whose contexts sum to ``context_tokens_total``."""
        return self.step_s((), batch, context_tokens_total)

    def host_transfer_s(self, tokens: int) -> float:
        """Seconds to move the KV of ``tokens`` between GPU and host memory, one direction."""
        return tokens * self.profile.model.kv_bytes_per_token / self.profile.gpu.host_link_bytes_per_s


def profile_from_mapping(document: dict) -> Profile:
    """A profile from nested mappings: ``model`` and ``gpu`` tables beside the profile's own fields.

    Raises:
        ProfileError: a field is unknown, missing or out of range.
    """
    parts = dict(document)
    for key, kind in (("model", ModelShape), ("gpu", Gpu)):
        if not isinstance(parts.get(key), dict):
            raise ProfileError(f"Profile.{key} is {parts.get(key)!r}; accepted: a table")
        parts[key] = _build(kind, parts[key])
    return _build(Profile, parts)


def _build(kind: type, given: dict):
    known = {f.name for f in fields(kind)}
    if unknown := sorted(given.keys() - known):
        raise ProfileError(f"{kind.__name__}.{unknown[0]} is not a field; accepted: {', '.join(sorted(known))}")
    try:
        return kind(**given)
    except TypeError as error:
        raise ProfileError(f"{kind.__name__}: {error}; accepted: every field without a default") from None
