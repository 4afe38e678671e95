"""Whose tool call it is and what it runs, as the stream has it. Imports little: a command waits for it."""

import os

from mars_sglang.core.commands import command_word

API_KEY_ENV = "MARS_SGLANG_API_KEY"
MAX_ID_CHARACTERS = 256


def describe(
    program: str,
    name: str,
    command: str | None = None,
    *,
    turn: str | None = None,
    api_key: str | None = None,
    authorization: str | None = None,
) -> dict[str, str | None]:
    """The fields ``program``, ``tool``, ``command`` and ``turn`` of a call's events.

    Raises:
        TypeError: an argument that is no string.
        ValueError: a program id that no request could have.
    """
    given = {"program": program, "name": name, "command": command, "turn": turn}
    for field, value in given.items():
        if not isinstance(value, str) and (value is not None or field in ("program", "name")):
            raise TypeError(f"{field} of a tool call is {value!r}; it has to be a string")
    if not 0 < len(program) <= MAX_ID_CHARACTERS or not program.isprintable():
        raise ValueError(
            f"program of a tool call is {program[:60]!r}; "
            f"a program id has 1 to {MAX_ID_CHARACTERS} printable characters"
        )
    api_key = api_key or os.environ.get(API_KEY_ENV)
    if authorization is None and api_key:
        authorization = f"Bearer {api_key}"
    if authorization:
        from mars_sglang.stream.tenant import scoped

        program = scoped(program, authorization)
    return {
        "program": program,
        "tool": printable(name) or "?",
        "command": None if command is None else command_word(command),
        "turn": None if turn is None else printable(turn),
    }


def printable(text: str) -> str:
    """At most 256 characters. Names come from a model's output: a strange one is no reason to stop an agent."""
    return "".join(character if character.isprintable() else "?" for character in text[:MAX_ID_CHARACTERS])
