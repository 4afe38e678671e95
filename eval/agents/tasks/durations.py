"""One wrong function: look, read, run the tests, edit, run them again. Short turns, short tools."""

from eval.agents.task import PYTEST, Finish, Replace, Run, Step, Task, View
from eval.agents.tasks.repository import python_files

_PARSE = '''\
"""Durations as people write them."""

import re

_UNITS = {"h": 3600, "m": 60, "s": 1}


def parse(text):
    """Seconds of a duration such as "90s", "5m" or "1h30m".

    Raises:
        ValueError: the text is no duration.
    """
    match = re.match(r"(\\d+)([hms])", text)
    if match is None:
        raise ValueError(f"{text!r} is no duration")
    return int(match[1]) * _UNITS[match[2]]
'''

_SHOW = '''\
"""Durations for people."""


def show(seconds):
    """The shortest text for a number of seconds."""
    parts = []
    for unit, size in (("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
'''

_TEST_PARSE = """\
import pytest

from durations.parse import parse
from durations.show import show


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("5m", 300), ("1h30m", 5400), ("2h5s", 7205)])
def test_duration_is_its_seconds(text, seconds):
    assert parse(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "5", "5mx", "5m 3s"])
def test_other_text_is_refused(text):
    with pytest.raises(ValueError, match="no duration"):
        parse(text)


@pytest.mark.parametrize("seconds", [1, 59, 60, 3599, 3600, 86399])
def test_shown_duration_is_read_back(seconds):
    assert parse(show(seconds)) == seconds
"""

_OLD = """\
    match = re.match(r"(\\d+)([hms])", text)
    if match is None:
        raise ValueError(f"{text!r} is no duration")
    return int(match[1]) * _UNITS[match[2]]
"""

_NEW = """\
    if re.fullmatch(r"(\\d+[hms])+", text) is None:
        raise ValueError(f"{text!r} is no duration")
    return sum(int(count) * _UNITS[unit] for count, unit in re.findall(r"(\\d+)([hms])", text))
"""

DURATIONS = Task(
    name="durations",
    issue="Here durations.parse.parse('1h30m') returns 3600 and not 5400. Fix it, and make the tests pass.",
    files=python_files(
        {
            "README.md": "# durations\n\nReads and writes durations such as 1h30m.\n",
            "durations/__init__.py": "",
            "durations/parse.py": _PARSE,
            "durations/show.py": _SHOW,
            "tests/test_parse.py": _TEST_PARSE,
        }
    ),
    steps=(
        Step("I look at what is here.", Run("ls -la . durations tests")),
        Step("The function is in durations/parse.py.", View("durations/parse.py")),
        Step("I see what the tests say before I change anything.", Run(PYTEST)),
        Step("Only the first part is read. All of them have to be summed.", Replace("durations/parse.py", _OLD, _NEW)),
        Step("Now the tests again.", Run(PYTEST)),
        Step("Is there another place that reads durations in this way?", Run("grep -rn 're.match' . --include=*.py")),
        Step("There is none. I look at the change as a whole.", Run("git diff --stat && git diff durations")),
        Step("Done.", Finish("parse() now sums all parts of a duration and refuses anything else; the tests pass.")),
    ),
)
