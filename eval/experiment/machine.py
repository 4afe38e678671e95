"""What a cell was measured on, without anything that says whose it is."""

from __future__ import annotations

import hashlib
import os
import platform
from functools import lru_cache
from pathlib import Path

import eval
import mars_sglang

_GIB = 2**30


@lru_cache(maxsize=1)
def machine() -> dict[str, str | int | float]:
    """Cores that this process may use, CPU model, memory, system and Python."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "cpu": _cpu_model(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


@lru_cache(maxsize=1)
def sources() -> str:
    """A digest of this project's code and figures: equal results are owed only where it is equal.

    Of what decides a cell: tables, plots and tests are not in it.
    """
    found = hashlib.sha256()
    root = Path(eval.__file__).parent
    folders = [Path(mars_sglang.__file__).parent, *(root / name for name in ("replay", "simulator", "workload"))]
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".py", ".toml", ".gz", ".jinja"):
                found.update(str(path.relative_to(folder.parent)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:12]


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
