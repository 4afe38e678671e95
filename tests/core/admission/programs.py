"""Views of programs for tests of admission policies, by what those policies look at."""

import math

from mars_sglang.core.views import ProgramView

#: Later than every now_s: whenever one looks, the silence has just begun.
JUST_NOW_S = math.inf


def working(program: str, tokens: int, arrived_s: float = 0.0) -> ProgramView:
    """Admitted, with a turn in flight."""
    return ProgramView(program, arrived_s, None, 1, tokens, turns=1)


def in_tool(program: str, tokens: int, arrived_s: float = 0.0, idle_since_s: float = JUST_NOW_S) -> ProgramView:
    """Admitted, with nothing in flight since ``idle_since_s``."""
    return ProgramView(program, arrived_s, None, 0, tokens, turns=1, idle_since_s=idle_since_s)


def new(program: str, tokens: int, arrived_s: float = 0.0) -> ProgramView:
    """Waits with its first turn since it arrived."""
    return ProgramView(program, arrived_s, arrived_s, 0, tokens, turns=0, first_tokens=tokens)


def returned(program: str, tokens: int, arrived_s: float = 0.0, waiting_since_s: float = 0.0) -> ProgramView:
    """Was paused inside a tool, and waits with its next turn since ``waiting_since_s``."""
    return ProgramView(
        program, arrived_s, waiting_since_s, 0, tokens, turns=3, idle_since_s=waiting_since_s, paused=True
    )
