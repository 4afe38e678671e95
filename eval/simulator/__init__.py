"""A discrete-event simulator of SGLang's engine: the benchmark's programs and policies in virtual time."""

from eval.simulator.simulate import Simulated, simulate

__all__ = ["Simulated", "simulate"]
