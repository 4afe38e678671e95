"""Marks of tests that drive real agents."""

import pytest

from eval.agents.session import AGENTS


def needs(form: str) -> pytest.MarkDecorator:
    """Skips where the agent of this form (a key of ``AGENTS``) is not installed."""
    missing = AGENTS[form].missing()
    return pytest.mark.skipif(missing is not None, reason=missing or "")
