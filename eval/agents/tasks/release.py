"""Archives that differ from one build to the next: tar, gzip, checksums, unpacking, and no long tests."""

from eval.agents.task import PYTEST, Create, Finish, Replace, Run, Step, Task, View
from eval.agents.tasks.repository import python_files

_TABLES = '''\
"""Tables that the package brings along, as text; they are made, because they are too large to keep."""


def table(number, rows=12000):
    state = number + 1
    lines = []
    for row in range(rows):
        state = state * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
        lines.append(f"{row};{state >> 40};{(state >> 20) % 1000 / 10};{'abcdefgh'[state >> 61]}")
    return "\\n".join(lines) + "\\n"
'''

_BUILD = '''\
"""Packs a release: `python -m release.build FOLDER` makes FOLDER/release.tar.gz and FOLDER/release.sha256."""

import hashlib
import sys
import tarfile
from pathlib import Path

from release.tables import table


def build(folder, tables=6):
    folder = Path(folder)
    content = folder / "content"
    content.mkdir(parents=True, exist_ok=True)
    for number in range(tables):
        (content / f"table_{number}.txt").write_text(table(number))
    for path in Path("docs").iterdir():
        (content / path.name).write_text(path.read_text())
    archive = folder / "release.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for path in content.iterdir():
            tar.add(path)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    (folder / "release.sha256").write_text(f"{digest}  {archive}\\n")
    return archive


if __name__ == "__main__":
    print(build(sys.argv[1]))
'''

_PACK = '''\
"""Archives that depend on nothing but names and contents."""

import gzip
import tarfile


def pack(paths, archive):
    """Files by their names alone, in order, with no times, owners or modes of their own."""
    with open(archive, "wb") as file, gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for path in sorted(paths, key=lambda path: path.name):
                entry = tarfile.TarInfo(f"release/{path.name}")
                entry.size = path.stat().st_size
                entry.mode = 0o644
                with path.open("rb") as content:
                    tar.addfile(entry, content)
'''

_BUILD_OLD = _BUILD[_BUILD.index("    with tarfile") : _BUILD.index("    digest =")]
_BUILD_NEW = """\
    pack(content.iterdir(), archive)
"""

_TEST = """\
import subprocess
import tarfile

from release.build import build
from release.tables import table


def test_two_builds_are_the_same_bytes(tmp_path):
    one, other = (build(tmp_path / name, tables=2) for name in ("one", "a-longer-name"))
    assert one.read_bytes() == other.read_bytes()


def test_archive_has_everything_under_one_folder(tmp_path):
    with tarfile.open(build(tmp_path, tables=2)) as tar:
        assert tar.getnames() == sorted(tar.getnames())
        assert {name.split("/")[0] for name in tar.getnames()} == {"release"}
        assert tar.extractfile("release/table_1.txt").read().decode() == table(1)
        assert all((entry.mtime, entry.uid, entry.uname) == (0, 0, "") for entry in tar)


def test_checksum_is_found_beside_the_archive(tmp_path):
    build(tmp_path, tables=1)
    assert subprocess.run(["sha256sum", "-c", "release.sha256"], cwd=tmp_path).returncode == 0
"""

RELEASE = Task(
    name="release",
    issue="Two builds of the same release have different checksums, and `sha256sum -c release.sha256` only works from "
    "the root. Make the archive depend on names and contents alone, everything in it under release/, and make the "
    "tests pass.",
    files=python_files(
        {
            "docs/license.txt": "Anyone may use this for anything.\n" * 40,
            "docs/tables.txt": "".join(f"table_{i}.txt: rows of number, value, share, class\n" for i in range(6)),
            "release/__init__.py": "",
            "release/tables.py": _TABLES,
            "release/build.py": _BUILD,
            "tests/test_build.py": _TEST,
        },
        ignored="out/\n",
    ),
    steps=(
        Step("What is here?", Run("find . -type f -not -path './.git/*' | sort | xargs ls -l")),
        Step("How is it packed?", View("release/build.py")),
        Step("Two builds.",
             Run("python -m release.build out/one && python -m release.build out/other && cat out/*/*.sha256")),
        Step("What differs?", Run("tar tvzf out/one/release.tar.gz > out/one.txt; tar tvzf out/other/release.tar.gz > "
                                  "out/other.txt; diff out/one.txt out/other.txt")),
        Step("Names and times. The header of gzip as well?",
             Run("od -A d -t x1z -N 48 out/one/release.tar.gz; od -A d -t x1z -N 48 out/other/release.tar.gz")),
        Step("Both. A packer that takes nothing of that.", Create("release/pack.py", _PACK)),
        Step("It is used.", Replace("release/build.py", _BUILD_OLD, _BUILD_NEW)),
        Step("And imported.", Replace("release/build.py", "import sys\nimport tarfile\nfrom pathlib import Path\n\n",
                                      "import sys\nfrom pathlib import Path\n\nfrom release.pack import pack\n")),
        Step("The checksum is of the file beside it.",
             Replace("release/build.py", "{digest}  {archive}", "{digest}  {archive.name}")),
        Step("Again.", Run("rm -r out && python -m release.build out/one && python -m release.build out/other && "
                           "cmp out/one/release.tar.gz out/other/release.tar.gz && cat out/*/*.sha256")),
        Step("Does it unpack to what went in?",
             Run("tar xzf out/one/release.tar.gz -C out && diff -r out/release out/one/content && du -sk out/release")),
        Step("Is the default level worth it?",
             Run("for level in 1 6 9; do echo $level $(tar cf - out/release | gzip -$level -n | wc -c); done")),
        Step("It is. The tests.", Run(PYTEST)),
        Step("The change.", Run("git status --short && git diff")),
        Step("Done.", Finish("Builds are the same bytes now; everything is under release/; checksums have no folder.")),
    ),
)  # fmt: skip
