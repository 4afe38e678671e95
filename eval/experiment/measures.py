"""What is said of a setup at a point: one number per finished cell, from its file."""

from __future__ import annotations

from typing import Any

import numpy as np

GOOD = (1, 2, 3)
"""Goodput counts programs that took at most so many times their time alone."""

_CLIENT = 1.08
"""What the cost model leaves out of the time alone, the way between agent and engine above all, takes up to 6% of it
where turns are short. A program that met no other counts as within 1 of its time alone."""

QUARTILES = 4


def measures(document: dict[str, Any]) -> dict[str, float]:
    """Figures of one cell by name; those that it does not have are left out.

    ``mean p50 p95 p99 max`` of makespan, in emulated seconds; ``programs_per_h``; ``within_A`` the share of all its
    programs that took at most A times their time alone (and 5%), ``good_per_h_A`` how many of those per hour;
    ``cached`` and ``recomputed`` shares of prompt tokens, ``possible`` the share that a cache without limit would find;
    ``retractions``; ``slowdown`` (mean of makespan over time alone), ``slowdown_q1`` to ``q4`` by time alone, shortest
    first, and ``slowdown_worst``; ``completed`` share.
    """
    summary, columns = document["summary"], document["programs"]
    found: dict[str, float | None] = dict(summary["makespan_s"] or {})
    found["programs_per_h"] = summary["throughput"]["programs_per_hour"]
    found["retractions"] = summary["retractions"]
    prompt = summary["prompt_tokens"]
    if prompt:
        for name in ("cached", "recomputed"):
            tokens = summary[f"{name}_tokens"]
            found[name] = None if tokens is None else tokens / prompt
        found["possible"] = document["workload"]["reusable_tokens"] / prompt
    ratios = slowdowns(document)
    total = len(columns["program"])
    if total:
        found["completed"] = len(ratios) / total
        for times in GOOD:
            good = int((ratios <= times * _CLIENT).sum())
            found[f"within_{times}"] = good / total
            if summary["took_s"] > 0:
                found[f"good_per_h_{times}"] = 3600 * good / summary["took_s"]
    if len(ratios):
        found |= {"slowdown": float(ratios.mean()), "slowdown_worst": float(ratios.max())}
        parts = np.array_split(ratios[np.argsort(_alone(document), kind="stable")], QUARTILES)
        found |= {f"slowdown_q{n}": float(part.mean()) for n, part in enumerate(parts, 1) if len(part)}
    return {name: float(value) for name, value in found.items() if value is not None}


def slowdowns(document: dict[str, Any]) -> np.ndarray:
    """Makespan over time alone of each completed program."""
    return makespans(document) / _alone(document)


def makespans(document: dict[str, Any]) -> np.ndarray:
    """Of each completed program, in the order of arrival."""
    return np.array([span for span in document["programs"]["makespan_s"] if span is not None], dtype=float)


def _alone(document: dict[str, Any]) -> np.ndarray:
    columns = document["programs"]
    both = zip(columns["alone_s"], columns["makespan_s"], strict=True)
    return np.array([alone for alone, span in both if span is not None], dtype=float)
