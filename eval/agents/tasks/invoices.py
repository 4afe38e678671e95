"""A change across many files: search, long outputs, a new module, edits by command, a slower check."""

from eval.agents.task import PYTEST, Create, Finish, Replace, Run, Step, Task
from eval.agents.tasks.repository import python_files

_COUNTRIES = {"at": 20, "be": 21, "cz": 21, "de": 19, "dk": 25, "ee": 22, "es": 21, "fr": 20, "ie": 23, "it": 22,
              "lu": 17, "nl": 21, "pl": 23, "pt": 23, "se": 25, "si": 22}  # fmt: skip

_COUNTRY = '''\
"""Invoices of {code}."""

from invoices.legacy import gross_price

RATE = {rate}


def total(lines):
    """What a customer pays for ``lines`` of (net cents, count)."""
    result = 0
    for net, count in lines:
        result += gross_price(net, RATE) * count
    return result


def label(number):
    return f"{upper}-{{number:06d}}"
'''

_LEGACY = '''\
"""Old arithmetic with floats. Do not use it for anything new."""


def gross_price(net, rate):
    return int(net * (1 + rate / 100))
'''

_TEST_TOTALS = """\
import importlib
import pkgutil
from fractions import Fraction

import pytest

import invoices.countries

CODES = [module.name for module in pkgutil.iter_modules(invoices.countries.__path__)]


@pytest.mark.parametrize("code", CODES)
def test_every_price_is_rounded_half_up_to_the_cent(code):
    country = importlib.import_module(f"invoices.countries.{code}")
    for net in range(0, 20000):
        exact = Fraction(net) * (100 + country.RATE) / 100
        assert country.total([(net, 3)]) == 3 * int(exact + Fraction(1, 2)), net


def test_old_arithmetic_is_gone():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("invoices.legacy")
"""

_TAX = '''\
"""Prices in whole cents."""


def gross_cents(net, rate):
    """Net cents with a tax of ``rate`` percent, rounded half up."""
    return (net * (100 + rate) + 50) // 100
'''

_NOTES_OLD = "Prices come from `invoices.legacy`.\n"
_NOTES_NEW = "Prices come from `invoices.tax`, in whole cents, rounded half up.\n"

_RENAME = (
    "sed -i 's/from invoices.legacy import gross_price/from invoices.tax import gross_cents/; "
    "s/gross_price(/gross_cents(/' invoices/countries/*.py"
)

INVOICES = Task(
    name="invoices",
    issue="Totals are off by a cent for some prices, because invoices.legacy computes with floats. "
    "Replace it everywhere with whole cents rounded half up, delete it, and make the tests pass.",
    files=python_files(
        {
            "NOTES.md": f"# Notes\n\n{_NOTES_OLD}",
            "invoices/__init__.py": "",
            "invoices/legacy.py": _LEGACY,
            "invoices/countries/__init__.py": "",
            **{
                f"invoices/countries/{code}.py": _COUNTRY.format(code=code, rate=rate, upper=code.upper())
                for code, rate in _COUNTRIES.items()
            },
            "tests/test_totals.py": _TEST_TOTALS,
        }
    ),
    steps=(
        Step("I look for every use.", Run("grep -rn 'legacy\\|gross_price' .  --include=*.py --include=*.md")),
        Step("Many. What does one of them look like, and what is behind it?",
             Run("cat invoices/legacy.py invoices/countries/de.py && wc -l invoices/countries/*.py")),
        Step("How far off is it now?", Run(f"{PYTEST} 2>&1 | tail -n 40")),
        Step("A module with whole cents.", Create("invoices/tax.py", _TAX)),
        Step("One command changes all countries.", Run(_RENAME)),
        Step("Nothing may be left of it.",
             Run("git rm -q invoices/legacy.py && ! grep -rn 'legacy\\|gross_price' invoices --include=*.py")),
        Step("The notes name it too.", Replace("NOTES.md", _NOTES_OLD, _NOTES_NEW)),
        Step("The tests, with the slowest.", Run(f"{PYTEST} --durations=5")),
        Step("Does every file still compile, and what did change?",
             Run("python -m compileall -q invoices && git status --short && git diff --stat")),
        Step("I read one of the changes.", Run("git diff invoices/countries/fr.py")),
        Step("Done.",
             Finish("All countries use invoices.tax with whole cents; invoices.legacy is gone; the tests pass.")),
    ),
)  # fmt: skip
