"""A slow program: profile it, find the two causes, remove them one by one, profile again."""

from eval.agents.task import PYTEST, Finish, Replace, Run, Step, Task, View
from eval.agents.tasks.repository import python_files

_DISTANCE = '''\
"""How many letters two words differ by."""

calls = 0
"""Words compared so far."""


def distance(one, other):
    """Letters to insert, take out or replace."""
    global calls
    calls += 1
    rows = [[i + j if i * j == 0 else 0 for j in range(len(other) + 1)] for i in range(len(one) + 1)]
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            if one[i - 1] == other[j - 1]:
                rows[i][j] = rows[i - 1][j - 1]
            else:
                rows[i][j] = 1 + min(rows[i - 1][j], rows[i][j - 1], rows[i - 1][j - 1])
    return rows[len(one)][len(other)]
'''

_GROUPS = '''\
"""Groups of words that were probably meant to be the same."""

from similar.distance import distance


def near(word, words, limit):
    """Those of ``words`` that differ from ``word`` by at most ``limit`` letters."""
    return [other for other in words if distance(word, other) <= limit]


def groups(words, limit=1):
    """Words that are connected by steps of at most ``limit`` letters, each group sorted."""
    found, seen = [], []
    for word in words:
        if word in seen:
            continue
        group, open_words = [], [word]
        while open_words:
            current = open_words.pop()
            if current in group:
                continue
            group.append(current)
            seen.append(current)
            open_words.extend(near(current, words, limit))
        found.append(sorted(group))
    return sorted(found)
'''

_NEAR_OLD = _GROUPS[_GROUPS.index("def near") : _GROUPS.index("def groups")]
_NEAR_NEW = '''\
def without(word, limit):
    """The word with up to ``limit`` of its letters left out. Two near words have one of these in common."""
    found = last = {word}
    for _ in range(limit):
        last = {text[:i] + text[i + 1 :] for text in last for i in range(len(text))}
        found = found | last
    return found


class Index:
    """Finds near words without comparing with all of them."""

    def __init__(self, words, limit):
        self._limit = limit
        self._words = {}
        for word in words:
            for text in without(word, limit):
                self._words.setdefault(text, []).append(word)

    def near(self, word):
        candidates = {other for text in without(word, self._limit) for other in self._words.get(text, ())}
        return [other for other in sorted(candidates) if distance(word, other) <= self._limit]


'''

_LISTS_OLD = _GROUPS[_GROUPS.index("    found, seen = [], []") :]
_LISTS_NEW = """\
    index = Index(words, limit)
    found, seen = [], set()
    for word in words:
        if word in seen:
            continue
        group, open_words = set(), [word]
        while open_words:
            current = open_words.pop()
            if current in group:
                continue
            group.add(current)
            open_words.extend(index.near(current))
        seen |= group
        found.append(sorted(group))
    return sorted(found)
"""

_WORDS = '''\
"""Words that are the same in every run, some of them with a wrong letter."""


def made_words(count, seed=1):
    words = []
    while len(words) < count:
        seed = seed * 1103515245 + 12345 & 0x7FFFFFFF
        word = "".join("aeioustrnlmdkpbg"[(seed >> shift) % 16] for shift in range(3, 3 + 3 * (5 + seed % 3), 3))
        words.append(word)
        if seed % 5 == 0:
            words.append(word[:2] + "x" + word[3:])
    return words[:count]
'''

_MAIN = '''\
"""Prints the largest groups of `python -m similar COUNT` words."""

import sys

from similar import distance
from similar.groups import groups
from similar.words import made_words

found = sorted(groups(made_words(int(sys.argv[1]))), key=lambda group: (-len(group), group))
for group in found[:20]:
    print(len(group), *group)
print(f"{len(found)} groups, {distance.calls} comparisons")
'''

_TEST = """\
import pytest

from similar import distance
from similar.groups import groups
from similar.words import made_words


def test_groups_are_connected_words():
    words = ["tree", "trea", "treas", "house", "mouse", "stone"]
    assert groups(words) == [["house", "mouse"], ["stone"], ["trea", "treas", "tree"]]


@pytest.mark.parametrize("limit", [1, 2])
def test_groups_are_those_of_comparing_everything(limit):
    words = made_words(150)
    found = groups(words, limit)
    for i, group in enumerate(found):
        for other in found[i + 1 :]:
            assert all(distance.distance(a, b) > limit for a in group for b in other)
    assert sorted({word for group in found for word in group}) == sorted(set(words))


def test_few_words_are_compared(monkeypatch):
    compared = 0

    def counted(one, other):
        nonlocal compared
        compared += 1
        assert compared < 10 * 30000
        return distance.distance(one, other)

    monkeypatch.setattr("similar.groups.distance", counted)
    groups(made_words(30000))
"""

SIMILAR = Task(
    name="similar",
    issue="`python -m similar 30000` takes hours, because every word is compared with every other. Make it compare at "
    "most ten pairs for each word, with the same result, and make the tests pass.",
    files=python_files(
        {
            "similar/__init__.py": "",
            "similar/__main__.py": _MAIN,
            "similar/distance.py": _DISTANCE,
            "similar/groups.py": _GROUPS,
            "similar/words.py": _WORDS,
            "tests/test_groups.py": _TEST,
        },
        ignored="out/\n",
    ),
    steps=(
        Step("What is here?", Run("ls -l similar tests && cat similar/__main__.py similar/words.py")),
        Step("The groups.", View("similar/groups.py")),
        Step("The distance.", View("similar/distance.py")),
        Step("How long do few words take?", Run("timeout 100 python -m similar 200")),
        Step("And twice as many?",
             Run("mkdir out && timeout 100 python -m similar 400 > out/before && tail -n 3 out/before")),
        Step("Four times as long. Where?",
             Run("timeout 100 python -m cProfile -s tottime -m similar 200 | sed -n '/calls/,$p' | head -n 30")),
        Step("All pairs are compared. Words with a letter left out find the near ones.",
             Replace("similar/groups.py", _NEAR_OLD, _NEAR_NEW)),
        Step("And the lists become sets.", Replace("similar/groups.py", _LISTS_OLD, _LISTS_NEW)),
        Step("The same result?", Run("python -m similar 400 > out/after; diff out/before out/after")),
        Step("Only the comparisons are fewer. And for many words?", Run("timeout 100 python -m similar 20000")),
        Step("What is it busy with now?",
             Run("timeout 100 python -m cProfile -s cumulative -m similar 8000 | sed -n '/calls/,$p' | head -n 40")),
        Step("Good. The tests.", Run(f"{PYTEST} --durations=3")),
        Step("The change.", Run("git status --short && git diff --stat && git diff")),
        Step("Done.", Finish("Near words are found by an index; a word is compared with a few others only.")),
    ),
)  # fmt: skip
