"""Generated code: a generator, forty schemas, and the modules that it writes, which are kept in the repository."""

import json

from eval.agents.task import PYTEST, Create, Finish, Replace, Run, Step, Task, View
from eval.agents.tasks.repository import python_files

_WORDS = ("account", "address", "batch", "carrier", "class", "country", "from", "invoice", "item", "label")
_TYPES = ("integer", "string", "number", "boolean", "list")


def _schema(number: int) -> dict:
    fields = {}
    for i in range(3 + number % 6):
        word = _WORDS[(number * 3 + i * 7) % len(_WORDS)]
        fields[word] = {"type": _TYPES[(number + i) % 5], "optional": (number + i) % 3 == 0}
    return {"name": f"record{number:02d}", "fields": fields}


_GENERATE = '''\
"""Writes records/record*.py from schemas/*.json: `python generate.py`."""

import json
from pathlib import Path

TYPES = {"integer": "int", "string": "str", "number": "float", "boolean": "bool", "list": "list"}
EMPTY = {"integer": "0", "string": '""', "number": "0.0", "boolean": "False", "list": "[]"}


def module(schema):
    """The text of a schema's module."""
    lines = [f'"""Generated from schemas/{schema["name"]}.json. Do not edit."""', "", ""]
    lines.append(f"class {schema['name'].capitalize()}:")
    arguments = []
    for name, field in schema["fields"].items():
        default = f"={EMPTY[field['type']]}" if field["optional"] else ""
        arguments.append(name + default)
    lines.append(f"    def __init__(self, {', '.join(arguments)}):")
    for name in schema["fields"]:
        lines.append(f"        self.{name} = {name}")
    lines += ["", "    @classmethod", "    def read(cls, content):"]
    lines.append(f"        return cls(**{{name: content[name] for name in {list(schema['fields'])!r}}})")
    lines += ["", "    def write(self):"]
    pairs = ", ".join(f"{name!r}: self.{name}" for name in schema["fields"])
    lines.append(f"        return {{{pairs}}}")
    return "\\n".join(lines) + "\\n"


def main():
    for path in sorted(Path("schemas").glob("*.json")):
        schema = json.loads(path.read_text())
        Path(f"records/{schema['name']}.py").write_text(module(schema))


if __name__ == "__main__":
    main()
'''

_MODULE_NEW = '''\
def argument(name):
    """A field's name in Python: words of the language get a ``_``."""
    return name + "_" if keyword.iskeyword(name) else name


def module(schema):
    """The text of a schema's module."""
    fields = schema["fields"]
    required = [name for name, field in fields.items() if not field["optional"]]
    optional = [name for name, field in fields.items() if field["optional"]]
    lines = [f'"""Generated from schemas/{schema["name"]}.json. Do not edit."""', "", ""]
    lines.append(f"class {schema['name'].capitalize()}:")
    # Each value is written out for each object, so that no two share a list.
    arguments = [argument(name) for name in required] + [f"{argument(name)}=None" for name in optional]
    lines.append(f"    def __init__(self, {', '.join(arguments)}):")
    for name, field in fields.items():
        own = argument(name)
        empty = f"{EMPTY[field['type']]} if {own} is None else {own}" if field["optional"] else own
        lines.append(f"        self.{own} = {empty}")
    lines += ["", "    @classmethod", "    def read(cls, content):"]
    lines.append("        return cls(")
    lines += [f"            {argument(name)}=content[{name!r}]," for name in required]
    lines += [f"            {argument(name)}=content.get({name!r})," for name in optional]
    lines += ["        )", "", "    def write(self):", "        return {"]
    lines += [f"            {name!r}: self.{argument(name)}," for name in fields]
    lines.append("        }")
    return "\\n".join(lines) + "\\n"


'''

_MODULE_OLD = _GENERATE[_GENERATE.index("def module") : _GENERATE.index("def main")]

_TEST = """\
import importlib
import json
from pathlib import Path

import pytest

from generate import module

SCHEMAS = [json.loads(path.read_text()) for path in sorted(Path("schemas").glob("*.json"))]
VALUES = {"integer": 7, "string": "x", "number": 0.5, "boolean": True, "list": [1]}
EMPTY = {"integer": 0, "string": "", "number": 0.0, "boolean": False, "list": []}


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema["name"])
def test_record_is_read_and_written(schema):
    assert Path(f"records/{schema['name']}.py").read_text() == module(schema)
    record = getattr(importlib.import_module(f"records.{schema['name']}"), schema["name"].capitalize())
    content = {name: VALUES[field["type"]] for name, field in schema["fields"].items()}
    assert record.read(content).write() == content
    required = {name: value for name, value in content.items() if not schema["fields"][name]["optional"]}
    empty = {name: EMPTY[field["type"]] for name, field in schema["fields"].items()}
    assert record.read(required).write() == empty | required
    for value in record.read(required).write().values():
        if value == []:
            value.append(1)
    assert record.read(required).write() == empty | required
"""

_COUNT = """\
import json
from collections import Counter
from pathlib import Path

counts = Counter()
for path in Path("schemas").glob("*.json"):
    for name, field in json.loads(path.read_text())["fields"].items():
        counts[name, field["type"], "optional" if field["optional"] else "required"] += 1
for key, count in sorted(counts.items()):
    print(count, *key)
"""

SCHEMAS = Task(
    name="schemas",
    issue="The generated records in records/ do not even compile when a field is named like a word of Python or "
    "an optional field comes first, and reading fails where an optional field is missing. Fix generate.py, generate "
    "the records anew, and make the tests pass.",
    files=python_files(
        {
            **{f"schemas/record{i:02d}.json": json.dumps(_schema(i), indent=1) + "\n" for i in range(40)},
            "generate.py": _GENERATE,
            "records/__init__.py": "",
            "records/README.md": "Generated; see ../generate.py.\n",
            "tests/test_records.py": _TEST,
        },
    ),
    steps=(
        Step("What is here?", Run("ls . schemas records && wc -c schemas/*.json | tail -n 1")),
        Step("A few schemas.", Run("cat schemas/record00.json schemas/record07.json schemas/record23.json")),
        Step("The generator.", View("generate.py")),
        Step("I let it run as it is.", Run("python generate.py && wc -l records/*.py | tail -n 1")),
        Step("How many do not compile?", Run("python -m compileall -q records | grep -c SyntaxError")),
        Step("Which errors?",
             Run("python -m compileall -q -f records 2>&1 | grep '^SyntaxError\\|Error:' | sort | uniq -c")),
        Step("And what do the tests say?", Run(f"{PYTEST} 2>&1 | tail -n 300")),
        Step("Which fields are there?", Create("count_fields.py", _COUNT)),
        Step("I count them.", Run("python count_fields.py; rm count_fields.py")),
        Step("Lists must not be shared either. The new text of a module.",
             Replace("generate.py", _MODULE_OLD, _MODULE_NEW)),
        Step("It needs the words of Python.", Replace("generate.py", "import json\n", "import json\nimport keyword\n")),
        Step("Anew.", Run("python generate.py && python -m compileall -q -f records && echo all compile")),
        Step("How does one look?", Run("cat records/record07.py records/record23.py")),
        Step("Are all fields in order everywhere?", Run("grep -n 'def __init__' records/*.py")),
        Step("The tests.", Run(PYTEST)),
        Step("Does generating again change anything?",
             Run("git add --all && python generate.py && git diff --stat && git status --short")),
        Step("The generator's change.", Run("git diff --cached generate.py")),
        Step("Done.", Finish("All forty records compile, take missing optional fields, and share no lists.")),
    ),
)  # fmt: skip
