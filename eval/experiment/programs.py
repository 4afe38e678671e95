"""The programs of a point: the same for every setup, engine and cell."""

from __future__ import annotations

from functools import lru_cache

from eval.experiment.cell import Point, digest
from eval.replay.endpoint import ServerFacts
from eval.workload import Program, draw, load
from eval.workload.source import Drawn
from mars_sglang.core.cost_model import CostModel, Profile
from mars_sglang.emulation.profiles import load_profile


@lru_cache(maxsize=16)
def loaded(workload: str, seed: int) -> tuple[Program, ...]:
    """As :func:`eval.workload.load`, read once. Raises WorkloadError."""
    return tuple(load(workload, seed))


@lru_cache(maxsize=16)
def drawn(point: Point, seed: int) -> Drawn:
    """The programs that are run at ``point``, as ``eval.bench`` picks them. Raises WorkloadError."""
    limit = largest_context(load_profile(point.profile))
    programs = [program.cut(point.max_turns) for program in loaded(point.workload, seed)]
    return draw(programs, point.programs, seed, lambda p: "too_long" if p.largest_context > limit else None)


def largest_context(profile: Profile) -> int:
    """Most tokens, prompt and answer together, of one request on a server with this profile."""
    capacity = CostModel(profile).kv_capacity_tokens
    return ServerFacts(profile.model.name, None, profile.model.context_tokens, capacity, None, None).largest_context


def fingerprint(programs: tuple[Program, ...]) -> str:
    """Equal for equal programs: two results under one name are of the same workload."""
    return digest(
        [
            [p.id, p.tool_tokens, p.system_tokens,
             [[t.in_tokens, t.reuse_tokens, t.out_tokens, t.tool, t.tool_s] for t in p.turns]]
            for p in programs
        ]
    )  # fmt: skip
