"""Answers written beforehand, for agents that cannot ask for them in a field of their requests.

A prompt that contains ``[[script: NAME]]`` is answered with the steps of that script, one after
the other. Which step is next is read from the prompt alone, so nothing is remembered, a request
that is sent again gets the same answer, and any number of conversations follow one script.
"""

import json
import os
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mars_sglang.emulation import EMULATION_ENV

#: ``[[script: NAME key=value ...]]``; ``${key}`` in a step becomes the value.
_MARKER = re.compile(r"\[\[script:([^\]\n]*)\]\]")

#: What may stand in a value needs no quoting, neither in JSON nor in a shell.
_VALUE = re.compile(r"(\w+)=([\w./:@+-]+)")

#: How the emulated model's chat template begins a message.
_MESSAGE = re.compile(r"<\|im_start\|>(\w+)\n")


class ScriptError(ValueError):
    """A request that its script has no answer for; SGLang answers a ValueError with HTTP 400."""

    status_code = 400


class ScriptFileError(ValueError):
    """A file that is no script; the message names it and says what is accepted."""


@dataclass(frozen=True, slots=True)
class Script:
    """What the model answers, turn by turn."""

    name: str
    steps: tuple[str, ...]

    @classmethod
    def load(cls, path: Path) -> "Script":
        """Read a ``.toml`` or ``.json`` file.

        Raises:
            ScriptFileError: it cannot be read, or is not ``{name, steps}``.
        """
        try:
            text = path.read_text(encoding="utf-8")
            content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        except (OSError, ValueError) as error:
            raise ScriptFileError(f"script {path}: {error}") from error
        match content:
            case {"name": str(name), "steps": [_, *_] as steps, **rest} if not rest:
                if re.fullmatch(r"[\w.-]+", name) and all(isinstance(step, str) and step for step in steps):
                    return cls(name, tuple(steps))
        raise ScriptFileError(
            f"script {path}: accepted are two fields: name, of letters, digits, '_', '.' and '-', and steps, a list "
            "of at least one text"
        )


class Scripts:
    """The scripts that a server knows, by name."""

    def __init__(self, scripts: Sequence[Script]) -> None:
        self._scripts = {script.name: script for script in scripts}

    @classmethod
    def load(cls, folder: str | Path) -> "Scripts":
        """
        Raises:
            ScriptFileError: no folder, no scripts in it, a file that is none, or two of one name.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ScriptFileError(f"--scripts {folder} is not a folder")
        paths = sorted(path for path in folder.iterdir() if path.suffix in (".toml", ".json"))
        if not paths:
            raise ScriptFileError(f"--scripts {folder} has no .toml or .json files")
        found: dict[str, Path] = {}
        scripts = []
        for path in paths:
            script = Script.load(path)
            if script.name in found:
                raise ScriptFileError(f"scripts {found[script.name]} and {path} are both named {script.name!r}")
            found[script.name] = path
            scripts.append(script)
        return cls(scripts)

    def answer(self, prompt: str) -> str | None:
        """The text that comes next in the conversation that ``prompt`` is; None if it names no script.

        Raises:
            ScriptError: a script that is not known, a value with other characters, or a step after the last.
        """
        marker = _MARKER.search(prompt)
        if marker is None:
            return None
        name, *values = marker[1].split() or [""]
        script = self._scripts.get(name)
        if script is None:
            raise ScriptError(f"script {name!r} is not known; known: {', '.join(sorted(self._scripts))}")
        steps = [_filled(step, values) for step in script.steps]
        given = _answers_given(prompt, marker.end(), steps)
        if given >= len(steps):
            raise ScriptError(f"script {name!r} has {len(steps)} steps, and answer {given + 1} was asked for")
        return steps[given]


def _filled(step: str, values: Sequence[str]) -> str:
    for value in values:
        match = _VALUE.fullmatch(value)
        if match is None:
            raise ScriptError(f"script value {value!r} is not key=value; a value is letters, digits and ./:@+-")
        step = step.replace(f"${{{match[1]}}}", match[2])
    return step


def _answers_given(prompt: str, start: int, steps: Sequence[str]) -> int:
    """How many answers stand in ``prompt`` after ``start``.

    Under the chat template, the assistant's messages; several in a row are one answer, which
    some endpoints split into text and calls. In other text, the steps that are there in order.
    """
    if _MESSAGE.search(prompt) is not None:
        roles = _MESSAGE.findall(prompt, start)
        answers = [i for i, role in enumerate(roles) if role == "assistant" and roles[i - 1 : i] != ["assistant"]]
        # The last one is where the answer that is asked for begins.
        return max(len(answers) - 1, 0)
    for number, step in enumerate(steps):
        found = prompt.find(step, start)
        if found < 0:
            return number
        start = found + len(step)
    return len(steps)


@cache
def scripts_of_server() -> Scripts | None:
    """The scripts that ``mars-sglang emulate --scripts`` named to this process; None if it did not."""
    settings: dict[str, Any] = json.loads(os.environ.get(EMULATION_ENV) or "{}")
    return Scripts.load(settings["scripts"]) if settings.get("scripts") else None
