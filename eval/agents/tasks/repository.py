"""What the tasks' repositories have in common."""

from collections.abc import Mapping


def python_files(files: Mapping[str, str], ignored: str = "") -> dict[str, str]:
    """``files`` of a Python repository whose tests import from its root, with the settings for that.

    Args:
        ignored: lines for ``.gitignore``, such as the name of a folder with build output.
    """
    settings = '[tool.pytest.ini_options]\npythonpath = ["."]\n'
    return {".gitignore": f"__pycache__/\n{ignored}", "pyproject.toml": settings, **files}
