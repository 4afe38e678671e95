"""The core imports nothing that has a state or a host of its own."""

import ast
import sys
from pathlib import Path

import pytest

import eval
import mars_sglang
from mars_sglang import core

CORE_FILES = sorted(Path(core.__file__).parent.rglob("*.py"))
IMPURE = {"time", "os", "random", "logging", "asyncio", "socket", "threading", "subprocess", "datetime", "secrets"}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


def test_there_is_a_core_to_look_at():
    assert len(CORE_FILES) > 5


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda path: path.stem)
def test_a_core_file_imports_the_standard_library_numpy_and_the_core(path):
    for name in imported(path):
        top = name.split(".")[0]
        assert top not in IMPURE, f"{path.name} imports {name}"
        assert top == "numpy" or name.startswith("mars_sglang.core") or top in sys.stdlib_module_names, name


def test_only_the_engine_the_emulation_and_the_plugin_import_sglang():
    root = Path(mars_sglang.__file__).parent
    allowed = {root / "engine", root / "emulation"}
    for path in [*root.rglob("*.py"), *Path(eval.__file__).parent.rglob("*.py")]:
        if allowed & set(path.parents) or path.name == "plugin.py":
            continue
        # What a user writes, who runs sglang.Engine.
        if path == Path(eval.__file__).parent / "agents" / "rollouts.py":
            continue
        assert not any(name.split(".")[0] == "sglang" for name in imported(path)), path
