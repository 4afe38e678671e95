"""Experiments that are shipped: one TOML file beside this module each."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent


def shipped_names() -> list[str]:
    """Sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def shipped(name: str) -> Path | None:
    """The file of a shipped experiment; None if there is none of that name."""
    return _FOLDER / f"{name}.toml" if name in shipped_names() else None
