"""``docs/events.md`` names everything that is on the wire."""

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from mars_sglang.stream.codec import kind_of
from mars_sglang.stream.events import AnyEvent, Event, GateSettings, ProgramState, ToolCallState, ToolUse, TurnState
from mars_sglang.stream.snapshot import ExecutorState, Snapshot

DOCS = (Path(__file__).parents[2] / "docs" / "events.md").read_text()
COMMON = {field.name for field in msgspec.structs.fields(Event)}


def section(name: str) -> str:
    found = [part for part in DOCS.split("\n### ") if part.startswith(f"`{name}`")]
    assert len(found) == 1, f"docs/events.md has {len(found)} sections for {name}"
    return found[0].split("\n## ")[0]


@pytest.mark.parametrize("kind", get_args(AnyEvent), ids=kind_of)
def test_every_kind_has_a_section_that_names_its_fields(kind):
    text = section(kind_of(kind))
    assert kind.plane in text
    for field in msgspec.structs.fields(kind):
        assert field.name in COMMON or f"| `{field.name}` |" in text, field.name


@pytest.mark.parametrize(
    "part", [ProgramState, TurnState, GateSettings, ToolCallState, ToolUse, ExecutorState, Snapshot]
)
def test_every_part_of_a_message_has_a_section_that_names_its_fields(part):
    text = section(part.__name__)
    for field in msgspec.structs.fields(part):
        assert f"| `{field.name}` |" in text, field.name


def test_the_fields_that_every_message_has_are_named():
    text = DOCS.split("## What every event carries")[1].split("\n## ")[0]
    for name in COMMON:
        assert f"| `{name}` |" in text
