"""A parser that grows by four small features: edit, check, edit, check; no tool takes longer than a second."""

from eval.agents.task import Finish, Replace, Run, Step, Task, View
from eval.agents.tasks.repository import python_files

_READ = '''\
"""Settings files: sections, keys and values.

    [server]
    port = 8000
"""


class SettingsError(ValueError):
    """Text that is no settings file; the message names the line."""


def read(text):
    """The settings in ``text``: a dict of dicts."""
    sections = {}
    current = None
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            current = sections.setdefault(line[1:-1], {})
            continue
        key, _, value = line.partition("=")
        current[key.strip()] = typed(value.strip())
    return sections


def typed(value):
    """The value that a text stands for."""
    if value.isdigit():
        return int(value)
    return value
'''

_TEST = """\
import unittest

from settings.read import SettingsError, read


class Values(unittest.TestCase):
    def test_each_kind_is_read(self):
        for text, value in [
            ("7", 7), ("-7", -7), ("0.5", 0.5), ("1e3", 1000.0), ("true", True), ("false", False), ("on", "on"),
            ('"7"', "7"), ('"a # b"', "a # b"), ("[]", []), ("[1, 2.5, x]", [1, 2.5, "x"]),
            ('["a, b", c]', ["a, b", "c"]),
        ]:
            with self.subTest(text):
                found = read(f"[a]\\nkey = {text}")["a"]["key"]
                self.assertEqual((type(found), found), (type(value), value))


class Lines(unittest.TestCase):
    def test_comments_end_a_line(self):
        self.assertEqual(read("[a] # section\\nkey = 1 # value\\n# line\\n"), {"a": {"key": 1}})

    def test_line_goes_on_after_a_backslash(self):
        self.assertEqual(read("[a]\\nkey = [1, \\\\\\n  2]\\nother = x"), {"a": {"key": [1, 2], "other": "x"}})

    def test_wrong_lines_are_named(self):
        for text, line in [("key = 1", 1), ("[a]\\n\\nkey", 3), ("[a\\nkey = 1", 1), ("[a]\\nk = 1\\nk = 2", 3)]:
            with self.subTest(text), self.assertRaisesRegex(SettingsError, f"line {line}:"):
                read(text)


class References(unittest.TestCase):
    def test_value_of_another_section_is_put_in(self):
        text = "[a]\\nhost = h\\nport = 80\\n[b]\\nurl = http://${a.host}:${a.port}/"
        self.assertEqual(read(text)["b"]["url"], "http://h:80/")

    def test_unknown_reference_is_refused(self):
        with self.assertRaisesRegex(SettingsError, "a.nothing"):
            read("[a]\\nkey = ${a.nothing}")


if __name__ == "__main__":
    unittest.main()
"""

_LINES_OLD = _READ[_READ.index("        line = line.strip()\n") : _READ.index("    return sections")]
_ERRORS_NEW = """\
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            if not line.endswith("]"):
                raise SettingsError(f"line {number}: {line!r} has no ']'")
            current = sections.setdefault(line[1:-1], {})
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            raise SettingsError(f"line {number}: {line!r} is no section and no 'key = value'")
        if current is None:
            raise SettingsError(f"line {number}: {key!r} is in no section")
        if key in current:
            raise SettingsError(f"line {number}: {key!r} is there twice")
        current[key] = typed(value)
"""
_TYPED_OLD = _READ[_READ.index("    if value.isdigit()") :]
_TYPED_NEW = """\
    if value in ("true", "false"):
        return value == "true"
    if value.startswith('"') and value.endswith('"') and len(value) > 1:
        return value[1:-1]
    if value.startswith("[") and value.endswith("]"):
        return [typed(part.strip()) for part in outside(value[1:-1], ",") if part.strip()]
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass
    return value


def outside(text, mark):
    \"\"\"The parts of ``text`` between marks that are not in quotes.\"\"\"
    parts, quoted = [""], False
    for letter in text:
        quoted ^= letter == '"'
        if letter == mark and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
"""
_COMMENT_OLD = '        line = line.strip()\n        if not line or line.startswith("#"):\n            continue\n'
_COMMENT_NEW = '        line = outside(line, "#")[0].strip()\n        if not line:\n            continue\n'
_JOIN_OLD = "    for number, line in enumerate(text.splitlines(), 1):\n"
_JOIN_NEW = "    for number, line in joined(text):\n"
_JOINED = '''\
def joined(text):
    """Lines with the numbers of their beginnings; one that ends with a backslash goes on in the next."""
    begun = None
    for number, line in enumerate(text.splitlines(), 1):
        number, line = (begun[0], begun[1] + line) if begun else (number, line)
        begun = (number, line[:-1]) if line.endswith("\\\\") else None
        if not begun:
            yield number, line


def typed(value):
'''
_REFERENCES = """\
    for values in sections.values():
        for key, value in values.items():
            if isinstance(value, str):
                values[key] = re.sub(_REFERENCE, lambda match: referred(sections, *match.groups()), value)
    return sections


def referred(sections, section, key):
    if key not in sections.get(section, {}):
        raise SettingsError(f"{section}.{key} is referred to and is not there")
    return str(sections[section][key])
"""
_REFERENCE = '"""\n\nimport re\n\n_REFERENCE = re.compile(r"\\$\\{(\\w+)\\.(\\w+)\\}")\n\n\n'
_DOC = "    [server]\n    port = 8000\n"
_DOC_NEW = (
    '    [server]  # a comment\n    port = 8000\n    names = [a, "b, c"]\n    url = http://localhost:${server.port}\n'
)


def _check(name: str = "") -> Run:
    return Run(f"python -m unittest {name or 'discover -s tests -t .'} -q 2>&1 | tail -n 60")


SETTINGS = Task(
    name="settings",
    issue="Settings files need more: typed values and lists, comments after values, errors that name the line, lines "
    "that go on after a backslash, and references such as ${server.port}. Build these one after the other.",
    check="python -m unittest discover -q -s tests -t .",
    files=python_files(
        {
            "settings/__init__.py": "",
            "settings/read.py": _READ,
            "tests/__init__.py": "",
            "tests/test_read.py": _TEST,
        }
    ),
    steps=(
        Step("What is here?", Run("git ls-files | xargs wc -l")),
        Step("The reader.", View("settings/read.py")),
        Step("What is asked of it?", View("tests/test_read.py")),
        Step("Where does it stand?", _check()),
        Step("Types first.", Replace("settings/read.py", _TYPED_OLD, _TYPED_NEW)),
        Step("Do they work?", _check("tests.test_read.Values")),
        Step("All but the comment mark in quotes? I look at one.",
             Run("python -c \"from settings.read import read; print(read('[a]\\nk = [1, x] # c\\n'))\"")),
        Step("That comes next: errors with their lines.", Replace("settings/read.py", _LINES_OLD, _ERRORS_NEW)),
        Step("Do they work?", _check("tests.test_read.Lines")),
        Step("Comments after values.", Replace("settings/read.py", _COMMENT_OLD, _COMMENT_NEW)),
        Step("And now?", _check("tests.test_read.Lines")),
        Step("Lines that go on: used first,", Replace("settings/read.py", _JOIN_OLD, _JOIN_NEW)),
        Step("then written.", Replace("settings/read.py", "def typed(value):\n", _JOINED)),
        Step("All about lines should pass.", _check("tests.test_read.Lines")),
        Step("Where do references go?", Run("grep -n 'return sections' -B 3 -A 6 settings/read.py")),
        Step("After everything is read.", Replace("settings/read.py", "    return sections\n", _REFERENCES)),
        Step("With its import.",
             Replace("settings/read.py", '"""\n\n\nclass SettingsError', _REFERENCE + "class SettingsError")),
        Step("Do they work?", _check("tests.test_read.References")),
        Step("What do people read about it?", Run("python -m pydoc settings.read | cat | head -n 60")),
        Step("The example shows what is new.", Replace("settings/read.py", _DOC, _DOC_NEW)),
        Step("Is the file still in order?",
             Run("cat -A settings/read.py | grep -n '\\^I\\| \\$$'; python -m compileall -q .")),
        Step("Long lines?", Run("awk 'length > 120 {print FILENAME \": \" FNR}' settings/*.py")),
        Step("All tests.", _check()),
        Step("The change.", Run("git status --short && git diff")),
        Step("Done.", Finish("Types, lists, comments, named lines, continued lines and references are read.")),
    ),
)  # fmt: skip
