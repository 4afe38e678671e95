"""A regression somewhere in 61 commits: log, bisect with a check of its own, blame, a small fix."""

from eval.agents.task import PYTEST, Commit, Create, Finish, Replace, Run, Step, Task, View
from eval.agents.tasks.repository import python_files

_CORE = '''\
"""Sliding windows over a sequence."""


def windows(items, width):
    """All runs of ``width`` neighbours, as tuples."""
{windows}


def moving_sums(items, width):
    """The sum of each window."""
{sums}
'''

_GOOD_WINDOWS = "    return [tuple(items[i : i + width]) for i in range(len(items) - width + 1)]"
_BAD_WINDOWS = "    last = len(items) - width\n    return [tuple(items[i : i + width]) for i in range(last)]"
_SLOW_SUMS = "    return [sum(window) for window in windows(items, width)]"
_FAST_SUMS = """\
    # One pass: what leaves is taken off, what enters is added.
    sums = []
    for i, window in enumerate(windows(items, width)):
        sums.append(sum(window) if not sums else sums[-1] - items[i - 1] + window[-1])
    return sums"""

_RULE = '''\
"""Rule {number}: how far a value may be from its neighbours."""

from signals.core import moving_sums, windows

LIMIT = {limit}


def broken(values):
    """Positions of values that are further than LIMIT from the mean of their window of {width}."""
    found = []
    for i, (window, total) in enumerate(zip(windows(values, {width}), moving_sums(values, {width}))):
        if abs(window[0] - total / {width}) > LIMIT:
            found.append(i)
    return found
'''

_TEST = """\
import pytest

from signals.core import moving_sums, windows


@pytest.mark.parametrize("width", range(1, 9))
def test_every_window_is_there(width):
    items = list(range(40))
    assert windows(items, width) == [tuple(range(i, i + width)) for i in range(41 - width)]


@pytest.mark.parametrize("width", range(1, 9))
def test_sums_are_those_of_the_windows(width):
    items = [i * i % 17 for i in range(40)]
    assert moving_sums(items, width) == [sum(items[i : i + width]) for i in range(41 - width)]
"""

_CHECK = """\
import sys

from signals.core import windows

for width in range(1, 60):
    for size in range(width, 260):
        if len(windows(list(range(size)), width)) != size - width + 1:
            sys.exit(f"width {width}, size {size}: a window is missing")
"""


def _rule(number: int, edit: int) -> dict[str, str]:
    text = _RULE.format(number=number, limit=10 + number + edit, width=2 + number % 5)
    return {f"signals/rules/rule_{number:02d}.py": text}


def _past() -> tuple[Commit, ...]:
    """Twelve rules are tuned again and again; commits 23 and 38 change the core, and the first of them breaks it."""
    start = python_files({"signals/__init__.py": "", "signals/rules/__init__.py": ""})
    commits = [Commit("Sliding windows", start | {"signals/core.py": _core(_GOOD_WINDOWS, _SLOW_SUMS)})]
    for edit in range(1, 60):
        number = edit * 5 % 12
        if edit == 23:
            commits.append(Commit("Name the last window", {"signals/core.py": _core(_BAD_WINDOWS, _SLOW_SUMS)}))
        elif edit == 38:
            commits.append(Commit("Moving sums in one pass", {"signals/core.py": _core(_BAD_WINDOWS, _FAST_SUMS)}))
        else:
            commits.append(Commit(f"Rule {number}: limit {10 + number + edit}", _rule(number, edit)))
    return tuple(commits)


def _core(windows: str, sums: str) -> str:
    return _CORE.format(windows=windows, sums=sums)


REGRESSION = Task(
    name="regression",
    issue="Since some commit the last window is missing from signals.core.windows(). Find the commit with git bisect, "
    "fix it in the newest version without losing what came later, and make the tests pass.",
    history=_past(),
    files={"tests/test_core.py": _TEST},
    steps=(
        Step("First the history.", Run("git log --oneline | head -n 30 && git log --oneline | wc -l")),
        Step("What do the tests say?", Run(PYTEST)),
        Step("All windows are one short. The code now:", View("signals/core.py")),
        Step("Who uses it?", Run("grep -rn 'windows\\|moving_sums' signals --include=*.py")),
        Step("The tests are not in older commits, so bisecting needs a check of its own.",
             Create("check_windows.py", _CHECK)),
        Step("Is the first commit good?",
             Run("git checkout -q $(git rev-list --max-parents=0 main) && python -B check_windows.py && "
                 "echo good; git checkout -q main")),
        Step("And the last one bad?", Run("python -B check_windows.py; echo exit $?")),
        Step("Then bisect.",
             Run("git bisect start main $(git rev-list --max-parents=0 main) && "
                 "git bisect run python -B check_windows.py")),
        Step("Which was it?", Run("git show --stat --patch refs/bisect/bad")),
        Step("Back to the newest version.", Run("git bisect log && git bisect reset")),
        Step("What changed in that file later?", Run("git log --oneline --patch -n 2 -- signals/core.py")),
        Step("Whose lines are they now?", Run("git blame -s signals/core.py")),
        Step("The one-pass sums stay; only the range is wrong.",
             Replace("signals/core.py", "    last = len(items) - width\n", "    last = len(items) - width + 1\n")),
        Step("My check, which I no longer need then.", Run("python -B check_windows.py && rm check_windows.py")),
        Step("The tests.", Run(PYTEST)),
        Step("Is that all that I changed?", Run("git status --short && git diff")),
        Step("Done.", Finish("'Name the last window' lost the last window; the range is right again, the tests pass.")),
    ),
)  # fmt: skip
