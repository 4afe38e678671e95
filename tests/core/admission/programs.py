"""Views of programs for tests of admission policies, by what those policies look at."""

from mars_sglang.core.views import ProgramView


def working(program: str, tokens: int, arrived_s: float = 0.0) -> ProgramView:
    """Admitted, with a turn in flight."""
    return ProgramView(program, arrived_s, None, 1, tokens, 0.0, turns=1, context_tokens=tokens)


def in_tool(program: str, tokens: int, arrived_s: float = 0.0, idle_s: float = 1.0) -> ProgramView:
    """Admitted, with nothing in flight for ``idle_s``."""
    return ProgramView(program, arrived_s, None, 0, tokens, idle_s, turns=1, context_tokens=tokens)


def new(program: str, tokens: int, arrived_s: float = 0.0) -> ProgramView:
    """Waits with its first turn since it arrived."""
    return ProgramView(program, arrived_s, arrived_s, 0, tokens, 0.0, turns=0, context_tokens=tokens)


def returned(program: str, tokens: int, arrived_s: float = 0.0, waiting_since_s: float = 0.0) -> ProgramView:
    """Was paused inside a tool, and waits with its next turn."""
    return ProgramView(program, arrived_s, waiting_since_s, 0, tokens, 0.0, turns=3, context_tokens=tokens, paused=True)
