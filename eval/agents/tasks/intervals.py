"""A property check that computes for seconds, several times, between small edits."""

from eval.agents.task import PYTEST, Create, Finish, Replace, Run, Step, Task, View
from eval.agents.tasks.repository import python_files

_SETS = '''\
"""Sets of integers, as sorted lists of half-open intervals that do not touch."""

from bisect import bisect_left, bisect_right


class Intervals:
    def __init__(self):
        self._starts = []
        self._ends = []

    def __iter__(self):
        return iter(zip(self._starts, self._ends))

    def __contains__(self, number):
        i = bisect_right(self._starts, number) - 1
        return i >= 0 and number <= self._ends[i]

    def __len__(self):
        return sum(end - start for start, end in self)

    def add(self, start, end):
        """Every number from ``start`` up to, not including, ``end``."""
        if start >= end:
            return
        first = bisect_left(self._ends, start)
        last = bisect_left(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def remove(self, start, end):
        """Take out every number from ``start`` up to, not including, ``end``."""
        if start >= end:
            return
        first = bisect_right(self._ends, start)
        last = bisect_left(self._starts, end)
        if first >= last:
            return
        left = (self._starts[first], start)
        right = (end, self._ends[last - 1])
        kept = [piece for piece in (left, right) if piece[0] <= piece[1]]
        self._starts[first:last] = [piece[0] for piece in kept]
        self._ends[first:last] = [piece[1] for piece in kept]
'''

_PLAIN = '''\
"""The same with a plain set, to compare with, and numbers that are the same in every run."""


class Plain:
    def __init__(self):
        self._numbers = set()

    def __contains__(self, number):
        return number in self._numbers

    def __len__(self):
        return len(self._numbers)

    def __iter__(self):
        numbers = sorted(self._numbers)
        starts = [n for n in numbers if n - 1 not in self._numbers]
        ends = [n + 1 for n in numbers if n + 1 not in self._numbers]
        return iter(zip(starts, ends))

    def add(self, start, end):
        self._numbers.update(range(start, end))

    def remove(self, start, end):
        self._numbers.difference_update(range(start, end))


def operations(seed, count, size):
    """``count`` of ("add" or "remove", start, end), all below ``size``."""
    for _ in range(count):
        seed = seed * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
        start = (seed >> 33) % size
        yield ("add", "remove")[seed >> 63], start, min(size, start + (seed >> 50) % (size // 6))
'''

_TEST = """\
import pytest

from intervals.plain import Plain, operations
from intervals.sets import Intervals


@pytest.mark.parametrize("seed", range(120))
def test_every_operation_does_what_it_does_to_a_plain_set(seed):
    ours, plain = Intervals(), Plain()
    for name, start, end in operations(seed, 300, 120):
        getattr(ours, name)(start, end)
        getattr(plain, name)(start, end)
        assert list(ours) == list(plain), (name, start, end)
        assert [n for n in range(-1, 121) if n in ours] == [n for n in range(-1, 121) if n in plain]
        assert len(ours) == len(plain)
"""

_CHECK = '''\
"""Compares Intervals with a plain set: `python check.py SEED... `. Prints the shortest difference that it finds."""

import sys

from intervals.plain import Plain, operations
from intervals.sets import Intervals


def difference(history, size):
    ours, plain = Intervals(), Plain()
    for name, start, end in history:
        getattr(ours, name)(start, end)
        getattr(plain, name)(start, end)
    if list(ours) != list(plain):
        return f"{list(ours)}, not {list(plain)}"
    wrong = [n for n in range(-1, size + 1) if (n in ours) != (n in plain)]
    return f"wrong about {wrong}" if wrong else None


def shortest(history, size):
    """Leaves out one operation after the other, as long as there is a difference."""
    i = 0
    while i < len(history):
        shorter = history[:i] + history[i + 1 :]
        if difference(shorter, size):
            history = shorter
        else:
            i += 1
    return history


found = 0
for seed in map(int, sys.argv[1:]):
    for size in (12, 30, 90):
        history = list(operations(seed, 90, size))
        for length in range(1, len(history)):
            if difference(history[:length], size):
                short = shortest(history[:length], size)
                print(f"seed {seed}, size {size}: after {short} it is {difference(short, size)}")
                found += 1
                break
print(f"{found} differences")
sys.exit(found > 0)
'''

INTERVALS = Task(
    name="intervals",
    issue="The interval sets in intervals/sets.py are sometimes wrong at the edges. Find out where by comparing with "
    "plain sets, keep the check as check.py, fix the sets and make the tests pass.",
    files=python_files(
        {
            "intervals/__init__.py": "",
            "intervals/sets.py": _SETS,
            "intervals/plain.py": _PLAIN,
            "tests/test_intervals.py": _TEST,
        }
    ),
    steps=(
        Step("I read the sets.", View("intervals/sets.py")),
        Step("And what they are compared with.", Run("cat intervals/plain.py tests/test_intervals.py")),
        Step("How bad is it?", Run(f"{PYTEST} 2>&1 | tail -n 150")),
        Step("I want the shortest cases, not the first.", Create("check.py", _CHECK)),
        Step("For a few seeds.", Run("timeout 100 python check.py $(seq 40)")),
        Step("The end of an interval counts as in it. It should not.",
             Replace("intervals/sets.py", "number <= self._ends[i]", "number < self._ends[i]")),
        Step("What is left?", Run("timeout 100 python check.py $(seq 40)")),
        Step("Empty pieces are kept.",
             Replace("intervals/sets.py", "if piece[0] <= piece[1]]", "if piece[0] < piece[1]]")),
        Step("And now?", Run("timeout 100 python check.py $(seq 60)")),
        Step("Intervals that only touch are not merged when the new one comes first.",
             Replace("intervals/sets.py", "        last = bisect_left(self._starts, end)\n        if first < last:\n"
                     "            start", "        last = bisect_right(self._starts, end)\n        if first < last:\n"
                     "            start")),
        Step("Many seeds.", Run("timeout 100 python check.py $(seq 1 250)")),
        Step("Others, to be sure.", Run("timeout 100 python check.py $(seq 251 500)")),
        Step("The tests.", Run(PYTEST)),
        Step("The change.", Run("git status --short && git diff")),
        Step("Done.", Finish("Three edges were wrong: membership, empty pieces, touching intervals. check.py stays.")),
    ),
)  # fmt: skip
