"""A mean makespan that no policy can beat. Derivation and proof: docs/bounds.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from eval.bounds.demand import ROW_SHARES, Demand, demand
from eval.bounds.machine import earliest_completions, shortest_first
from eval.bounds.terms import Terms
from eval.workload.program import Program
from mars_sglang.core.cost_model import Profile

ALONE, GPU, MEMORY, TOOLS = "alone", "gpu", "memory", "tools"

# Any grid gives a bound; a finer one a higher bound. A prefill is mostly arithmetic and a decode step mostly traffic.
_PREFILL_COMPUTE = (1.0, 0.9, 0.6)
_DECODE_COMPUTE = (0.0, 0.3)
_GPU_SHARE = (1.0, 0.75, 0.5, 0.25, 0.0)
_REFINED = 4
"""Machines of each resource, best first, for which each program's time alone is taken into account too."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Of a workload's mean makespan, emulated seconds."""

    mean_s: float
    """No policy gets below this."""
    binds: str
    """The resource that alone gives the largest bound: ``alone`` (nobody waits for anybody), ``gpu``, ``memory`` (GPU
    and KV together) or ``tools``."""
    by_resource: dict[str, float]
    """The bound that each of these gives alone."""


def lower_bound(
    programs: Sequence[Program],
    arrivals_s: Sequence[float],
    profile: Profile,
    tool_slots: int | None,
    max_pause_s: float,
    *,
    host_tier: bool = True,
) -> Bound:
    """The largest lower bound that this project can prove for one engine of ``profile``.

    Args:
        arrivals_s: when each program comes. Where the next one starts when one ends, these depend on the policy, and
            the bound is one for policies under which they come at these times.
        tool_slots: tools that run at a time; None for no limit.
        max_pause_s: longest pause that is replayed.
        host_tier: whether KV may outlast a tool call outside the GPU. False gives a higher bound where it may not.

    Raises:
        ValueError: no programs, as many arrivals as programs not given, or a program that the pool cannot hold.
    """
    if not programs or len(programs) != len(arrivals_s):
        raise ValueError(f"arrivals_s: {len(arrivals_s)} for {len(programs)} programs; accepted: one each, 1 or more")
    terms = Terms(profile)
    largest = max(programs, key=lambda program: program.largest_context)
    if largest.largest_context > terms.capacity_tokens:
        raise ValueError(
            f"programs: {largest.id!r} has a context of {largest.largest_context} tokens; accepted: at most the pool "
            f"of {profile.name} ({terms.capacity_tokens})"
        )
    arrivals = np.asarray(arrivals_s, dtype=float)
    needs = demand(programs, terms, max_pause_s)
    earliest = arrivals + needs.alone
    found = {ALONE: [np.sort(earliest)]}
    machines = {
        GPU: [(arrivals, size) for size in _engine_sizes(needs, terms, gpu_shares=(1.0,), host_tier=host_tier)],
        MEMORY: [(arrivals, size) for size in _engine_sizes(needs, terms, _GPU_SHARE[1:], host_tier=host_tier)],
        TOOLS: [(arrivals + needs.first_turn, needs.tools / tool_slots)] if tool_slots else [],
    }
    for resource, jobs in machines.items():
        ranked = sorted(jobs, key=lambda job: -shortest_first(*job).mean())
        found[resource] = [earliest_completions(*job, earliest) for job in ranked[:_REFINED]]
    by_resource = {
        resource: float(np.max(curves, axis=0).mean() - arrivals.mean()) for resource, curves in found.items() if curves
    }
    curves = [curve for resource in found.values() for curve in resource]
    mean_s = float(np.max(curves, axis=0).mean() - arrivals.mean())
    return Bound(mean_s, max(by_resource, key=by_resource.__getitem__), by_resource)


def _engine_sizes(needs: Demand, terms: Terms, gpu_shares: Sequence[float], host_tier: bool) -> Iterator[np.ndarray]:
    """Job sizes of the programs on one machine, for each way to weigh the engine's limits."""
    for prefill, decode, (place, by_row) in product(_PREFILL_COMPUTE, _DECODE_COMPUTE, enumerate(ROW_SHARES)):
        step_s, token_s = terms.shared_s(terms.chunk_tokens, prefill)
        again_s = token_s + by_row * step_s / terms.chunk_tokens
        work = prefill * needs.prefill_compute + (1 - prefill) * needs.prefill_kv
        work = work + again_s * needs.prefill_tokens + (1 - by_row) * step_s * needs.prefill_shares
        work += decode * needs.decode_compute + (1 - decode) * (needs.decode_kv + needs.decode_weights[place])
        work += terms.overhead_s * needs.decode_shares[place]
        dropped = prefill * needs.pause_compute + again_s * needs.pause_tokens
        for gpu in gpu_shares:
            size = gpu * work + (1 - gpu) * needs.held
            if not host_tier:
                pauses = np.minimum(gpu * dropped, (1 - gpu) * needs.pause_held)
                size = size + np.bincount(needs.pause_program, pauses, minlength=len(size))
            yield size
