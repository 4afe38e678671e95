"""Does a built wheel work as well as an editable install? usage: check_wheel.py WHEEL

Unpacks it beside nothing else and runs it with the current environment's dependencies.
"""

import subprocess
import sys
import tempfile
import zipfile

#: Data files without which a command would fail at run time only.
EXPECTED = (
    "mars_sglang/emulation/profiles/h200-qwen3-coder-30b.toml",
    "mars_sglang/emulation/chat_template.jinja",
    "mars_sglang/engine/identity.toml",
    "eval/workload/traces/swebench-verified.jsonl.gz",
    "eval/workload/traces/README.md",
)

CHECK = """
import importlib.metadata, sys, os
home = sys.argv[1]
import mars_sglang, eval
for package in (mars_sglang, eval):
    assert package.__file__.startswith(home), package.__file__
points = importlib.metadata.distribution("mars-sglang").entry_points
groups = {point.group for point in points}
assert {"sglang.srt.plugins", "sglang.srt.platforms", "console_scripts"} <= groups, groups
for point in points:
    point.load()
from mars_sglang.cli import main
assert main(["emulate", "--list-profiles"]) == 0
from eval.workload import load
assert len(load("swebench")) == 350
"""


def main(wheel: str) -> int:
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as home:
        names = set(archive.namelist())
        missing = [name for name in EXPECTED if name not in names]
        stray = [name for name in names if not name.startswith(("mars_sglang", "eval/"))]
        if missing or stray:
            print(f"{wheel}: missing {missing}, stray {stray}", file=sys.stderr)
            return 1
        archive.extractall(home)
        # First on the path, so its metadata hides the editable install's.
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {home!r})\n{CHECK}", home]
        return subprocess.run(command, cwd=home).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
