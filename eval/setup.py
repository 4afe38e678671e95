"""One column of a result: which policies serve, over which cache. The same for the simulator and a real server."""

from __future__ import annotations

import json
from dataclasses import dataclass

from mars_sglang.config import ADMISSION_OFF

NATIVE_TURNS = ("fcfs", "lpm", "hrrn", "shortest-prefill-first")
"""SGLang's own orders that are compared with."""

EVICTIONS = ("lru", "tlru")

TLRU_CONFIG = {"threshold": 4096, "next_prompt_estimate": 1024}
"""Of ``tlru``, in tokens: a next prefill up to the threshold is fast enough. SGLang refuses ``tlru`` without one."""

_HOST_TIER = ("--enable-hierarchical-cache", "--hicache-io-backend", "direct", "--hicache-mem-layout", "layer_first")


@dataclass(frozen=True)
class Setup:
    """Policies and cache of one engine."""

    turn: str = "fcfs"
    """One of :data:`NATIVE_TURNS`, or a turn policy of ours."""
    admission: str = ADMISSION_OFF
    """``off`` or an admission policy."""
    eviction: str = "lru"
    """SGLang's order of eviction; under a turn policy of ours, of what belongs to no known program."""
    session_cache: bool = False
    """SGLang's session radix cache; every request then carries its program as ``session_id``."""
    host_ratio: float = 0.0
    """HiCache's host pool, as a multiple of the GPU's; 0: no host tier."""

    @property
    def native(self) -> bool:
        """Whether turns are ordered by SGLang itself."""
        return self.turn in NATIVE_TURNS

    @property
    def label(self) -> str:
        """Short, unique among setups, and fit for a file name: ``lpm+mars,tlru,session,host4``."""
        parts = [f"{self.turn}+{self.admission}" if self.admission != ADMISSION_OFF else self.turn]
        if self.eviction != EVICTIONS[0]:
            parts.append(self.eviction)
        if self.session_cache:
            parts.append("session")
        if self.host_ratio:
            parts.append(f"host{self.host_ratio:g}")
        return ",".join(parts)

    def server_args(self) -> list[str]:
        """What a server has to be started with."""
        turn, _, objective = self.turn.partition(":")
        args = ["--scheduler-policy", turn, "--mars-admission", self.admission]
        if objective:
            # It becomes that of the admission policy, too, where there is a choice.
            args += ["--mars-objective", objective]
        if self.native:
            # Recognition and the stream are ours; SGLang is measured as it is.
            args += ["--mars-control", "off", "--mars-recognise", "off"] if self.admission == ADMISSION_OFF else []
        args += ["--radix-eviction-policy", self.eviction]
        if self.eviction == "tlru":
            args += ["--radix-eviction-policy-config", json.dumps(TLRU_CONFIG)]
        if self.session_cache:
            args.append("--enable-session-radix-cache")
        if self.host_ratio:
            args += [*_HOST_TIER, "--hicache-ratio", f"{self.host_ratio:g}"]
        return args
