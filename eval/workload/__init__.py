"""Agent programs to replay: recorded, read from trajectories, or generated."""

from eval.workload.program import Program, Turn, WorkloadError
from eval.workload.source import draw, load

__all__ = ["Program", "Turn", "WorkloadError", "draw", "load"]
