"""A name that moves, in a tree of 400 modules: many small searches, edits and checks, each of milliseconds."""

from eval.agents.task import PYTEST, Create, Finish, Replace, Run, Step, Task, View
from eval.agents.tasks.repository import python_files

_AREAS = ("billing", "catalog", "delivery", "identity", "orders", "pricing", "search", "stock")

_PLAIN = '''\
"""Part {number} of {area}."""

from {area}.base import Part


class Part{number}(Part):
    weight = {weight}

    def label(self):
        return "{area}-{number}"
'''

_FORMATTED = '''\
"""Part {number} of {area}, which shows amounts."""

from {area}.base import Part
from shared.text import fmt_amount


class Part{number}(Part):
    weight = {weight}

    def label(self):
        return "{area}-{number}: " + fmt_amount({weight})
'''

_QUALIFIED = '''\
"""Part {number} of {area}, which picks its format by name."""

import shared.text
from {area}.base import Part


class Part{number}(Part):
    weight = {weight}
    formats = {{"amount": shared.text.fmt_amount, "name": "fmt_amount"}}

    def label(self):
        return "{area}-{number}: " + self.formats["amount"](self.weight)
'''

_BASE = '''\
"""What all parts of {area} have."""


class Part:
    weight = 0

    def label(self):
        raise NotImplementedError
'''

_TEXT = '''\
"""Texts for people."""


def plural(count, word):
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def fmt_amount(cents):
    """Cents as an amount."""
    return f"{cents // 100}.{cents % 100:02d}"
'''

_OLD = _TEXT[_TEXT.index("\n\ndef fmt_amount") :]
_MONEY = '"""Amounts of money."""\n' + _OLD.replace("fmt_amount", "shown_amount")

_TEST = """\
import importlib
import pkgutil
from pathlib import Path

import pytest

AREAS = sorted(path.parent.name for path in Path().glob("*/base.py"))
OLD = "fmt_" + "amount"


@pytest.mark.parametrize("area", AREAS)
def test_every_part_has_its_label(area):
    count = 0
    for module in pkgutil.iter_modules([area]):
        if module.name.startswith("part"):
            part = getattr(importlib.import_module(f"{area}.{module.name}"), module.name.capitalize())()
            number = module.name.removeprefix("part")
            amount = f"{part.weight // 100}.{part.weight % 100:02d}"
            assert part.label() in (f"{area}-{number}", f"{area}-{number}: {amount}")
            count += 1
    assert count == 50


def test_amounts_are_shown_by_shared_money():
    assert importlib.import_module("shared.money").shown_amount(1205) == "12.05"
    assert not hasattr(importlib.import_module("shared.text"), OLD)


def test_old_name_is_nowhere():
    assert [str(path) for path in Path().rglob("*.py") if OLD in path.read_text()] == []
"""


def _files() -> dict[str, str]:
    files = {"shared/__init__.py": "", "shared/text.py": _TEXT, "tests/test_parts.py": _TEST}
    for a, area in enumerate(_AREAS):
        files |= {f"{area}/__init__.py": "", f"{area}/base.py": _BASE.format(area=area)}
        for number in range(50):
            template = _QUALIFIED if number % 25 == a else _FORMATTED if (number + a) % 9 == 0 else _PLAIN
            text = template.format(area=area, number=number, weight=number * 37 + a)
            files[f"{area}/part{number}.py"] = text
    return files


def _area_steps(area: str) -> tuple[Step, ...]:
    imported = "s/from shared.text import fmt_amount/from shared.money import shown_amount/"
    return (
        Step(f"Next is {area}. What uses it there?", Run(f"grep -n fmt_amount {area}/*.py")),
        Step("The plain uses first.",
             Run(f"sed -i '{imported}; s/fmt_amount(/shown_amount(/' $(grep -l 'import fmt_amount' {area}/*.py)")),
        Step("Those by their full name too, and does all of it compile?",
             Run("sed -i 's/shared\\.text\\.fmt_amount/shared.money.shown_amount/; s/import shared\\.text/"
                 f"import shared.money/; s/\"fmt_amount\"/\"shown_amount\"/' {area}/*.py && "
                 f"python -m compileall -q {area} && git diff --stat {area} | tail -n 8")),
    )  # fmt: skip


RENAMING = Task(
    name="renaming",
    issue="shared.text.fmt_amount has to become shared.money.shown_amount, everywhere, with nothing left of the old "
    "name. Go area by area. The tests have to pass.",
    files=python_files(_files()),
    steps=(
        Step("How large is this?", Run("find . -name '*.py' | wc -l && ls")),
        Step("Where is the name?", Run("grep -rn fmt_amount . --include=*.py")),
        Step("How many in each area?", Run("grep -rl fmt_amount . --include=*.py | cut -d/ -f2 | sort | uniq -c")),
        Step("The function itself.", View("shared/text.py")),
        Step("One use by its full name.", View("billing/part0.py")),
        Step("Does anything else call it by another name?", Run("grep -rn 'getattr\\|import_module' . --include=*.py")),
        Step("Only the tests. The new module.", Create("shared/money.py", _MONEY)),
        Step("It goes from the old one.", Replace("shared/text.py", _OLD, "")),
        *(step for area in _AREAS for step in _area_steps(area)),
        Step("Is anything left?", Run("! grep -rn fmt_amount . --include=*.py --exclude-dir=.git")),
        Step("The tests.", Run(PYTEST)),
        Step("How much is it?", Run("git status --short | cut -c1-2 | sort | uniq -c && git diff --shortstat")),
        Step("I read a part of it.", Run("git diff orders stock shared")),
        Step("Done.", Finish("fmt_amount is shared.money.shown_amount in all areas; the tests pass.")),
    ),
)  # fmt: skip
