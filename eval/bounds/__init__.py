"""How far a policy is from what is possible: a lower bound, and policies that know the future."""

from eval.bounds.bound import Bound, lower_bound
from eval.bounds.policies import clairvoyant

__all__ = ["Bound", "clairvoyant", "lower_bound"]
