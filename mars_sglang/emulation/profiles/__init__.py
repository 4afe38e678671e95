"""Hardware profiles: one TOML file beside this module per model and GPU."""

import tomllib
from pathlib import Path

from mars_sglang.core.cost_model import Profile, ProfileError, profile_from_mapping

_FOLDER = Path(__file__).parent


def list_profiles() -> list[str]:
    """Names of the profiles that are shipped, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_profile(name: str) -> Profile:
    """A shipped profile by name, or any by the path of its TOML file.

    Raises:
        ProfileError: no such profile (the message lists the known ones), or the file does not hold one.
    """
    known = list_profiles()
    path = _FOLDER / f"{name}.toml" if name in known else Path(name)
    if path.suffix != ".toml" or not path.is_file():
        raise ProfileError(f"profile {name!r} is unknown; accepted: {', '.join(known)}, or the path of a .toml file")
    try:
        return profile_from_mapping(tomllib.loads(path.read_text(encoding="utf-8")))
    except (ProfileError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"profile {path}: {error}") from None
