"""Do the patches apply to the installed SGLang, in order, and does the result work?

usage: python patches/check.py [--test] [--keep DIR]
"""

import argparse
import compileall
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PATCHES = Path(__file__).resolve().parent
ROOT = PATCHES.parent
#: The end-to-end test that the series has to pass, the same that runs without it.
END_TO_END_TEST = "tests/engine/test_server.py"


class PatchError(RuntimeError):
    """A patch that does not apply, or a file that it breaks."""


def series(version: str) -> list[Path]:
    """The patches for a release, in the order in which they apply.

    Raises:
        PatchError: there is no folder for this release.
    """
    folder = PATCHES / f"sglang-{version}"
    found = sorted(folder.glob("*.patch"))
    if not found:
        known = ", ".join(sorted(p.name for p in PATCHES.glob("sglang-*"))) or "none"
        raise PatchError(f"no patches for SGLang {version}; there are: {known}")
    return found


def copy_of_sglang(into: Path) -> Path:
    """A copy of the installed package that may be changed; hard links where the disk allows."""

    def link(source, target):
        # The patch program writes a new file and renames it, so the installed one stays as it is.
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)

    spec = importlib.util.find_spec("sglang")
    source = Path(spec.submodule_search_locations[0])
    shutil.copytree(source, into / "sglang", copy_function=link, ignore=shutil.ignore_patterns("__pycache__"))
    return into


def apply(patch: Path, folder: Path) -> list[Path]:
    """Apply one patch; the files that it changed.

    Raises:
        PatchError: with what the patch program said.
    """
    run = subprocess.run(
        ["patch", "-p1", "--fuzz=0", "--force", "--no-backup-if-mismatch", "-i", str(patch)],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if run.returncode:
        raise PatchError(f"{patch.name} does not apply:\n{run.stdout}{run.stderr}")
    changed = re.findall(r"^\+\+\+ b/(\S+)", patch.read_text(), flags=re.MULTILINE)
    return [folder / name for name in changed]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--test", action="store_true", help="run the end-to-end test on the patched copy too")
    parser.add_argument("--keep", metavar="DIR", help="leave the patched copy there")
    arguments = parser.parse_args()
    version = importlib.metadata.version("sglang")
    # Beside the installed package, so that hard links can serve as the copy.
    home = Path(importlib.util.find_spec("sglang").submodule_search_locations[0]).parent
    folder = Path(arguments.keep or tempfile.mkdtemp(prefix=".mars-patched-", dir=home))
    try:
        copy_of_sglang(folder)
        for patch in series(version):
            changed = apply(patch, folder)
            for path in changed:
                if not compileall.compile_file(path, quiet=1, force=True):
                    raise PatchError(f"{patch.name} leaves {path.relative_to(folder)} unable to compile")
            print(f"applies: {patch.name} ({len(changed)} files)")
        if arguments.test:
            environment = os.environ | {"PYTHONPATH": str(folder), "MARS_SGLANG_TEST_PATCHED": str(folder)}
            command = [sys.executable, "-m", "pytest", "-q", END_TO_END_TEST]
            return subprocess.run(command, cwd=ROOT, env=environment).returncode
    except PatchError as error:
        print(f"patches/check.py: error: {error}", file=sys.stderr)
        return 1
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
