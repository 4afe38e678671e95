"""A task for a coding agent: a small git repository, what the model answers, and a check of the end."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mars_sglang.emulation.model_folder import tool_call_text


class TaskError(ValueError):
    """A task or a form that is not known; the message names the known ones."""


@dataclass(frozen=True, slots=True)
class Run:
    """A shell command in the task's folder."""

    command: str


@dataclass(frozen=True, slots=True)
class View:
    """Reading a file; ``path`` is relative to the task's folder."""

    path: str


@dataclass(frozen=True, slots=True)
class Replace:
    """Replacing the one place in a file where ``old`` stands."""

    path: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Create:
    """Writing a new file."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Saying that the task is done."""

    message: str


Action = Run | View | Replace | Create | Finish


@dataclass(frozen=True, slots=True)
class Step:
    """One answer of the model: what it says, and the one thing that it does."""

    thought: str
    action: Action


@dataclass(frozen=True, slots=True)
class Task:
    """What a session works on. The last step is a :class:`Finish`."""

    name: str
    issue: str
    """What the user asks for."""
    files: Mapping[str, str]
    """The repository at the start, by path."""
    steps: tuple[Step, ...]

    def make(self, folder: Path) -> None:
        """Write the repository into ``folder``, which may not exist yet, as one commit."""
        for name, text in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        _git(folder, "init", "--quiet", "--initial-branch=main")
        _git(folder, "add", "--all")
        _git(folder, "commit", "--quiet", "--message", "start")

    def passes(self, folder: Path) -> bool:
        """Whether the repository's tests pass, the ones that it started with and unchanged."""
        for name, text in self.files.items():
            if Path(name).name.startswith("test_") and (folder / name).read_text(encoding="utf-8") != text:
                return False
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        return subprocess.run(command, cwd=folder, capture_output=True, timeout=120).returncode == 0

    def script(self, form: str) -> dict:
        """The content of a script file for ``mars-sglang emulate --scripts``, in the form that an agent reads.

        Raises:
            TaskError: an unknown form.
        """
        if form not in FORMS:
            raise TaskError(f"form {form!r} is unknown; known: {', '.join(FORMS)}")
        return {"name": self.script_name(form), "steps": [FORMS[form](step) for step in self.steps]}

    def script_name(self, form: str) -> str:
        return f"{self.name}.{form}"

    def prompt(self, form: str, folder: Path) -> str:
        """What the user gives the agent. OpenHands' file editor wants absolute paths, so it names the folder."""
        value = f" folder={folder}" if form == "openhands" else ""
        return f"{self.issue} [[script: {self.script_name(form)}{value}]]"


def write_scripts(tasks: Mapping[str, Task], folder: Path) -> None:
    """One script file for each task in each form."""
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks.values():
        for form in FORMS:
            script = task.script(form)
            path = folder / f"{script['name']}.json"
            path.write_text(json.dumps(script, indent=1, ensure_ascii=False), encoding="utf-8")


def _git(folder: Path, *arguments: str) -> None:
    # Not the settings of whoever runs this: signing or hooks have no place here.
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    identity = ["-c", "user.name=task", "-c", "user.email=task@localhost"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, env=environment, check=True, capture_output=True)


def _bash(action: Action) -> str:
    """The action as a command, for an agent that has nothing else."""
    match action:
        case Run(command):
            return command
        case View(path):
            return f"cat -n {path}"
        case Replace(path, old, new):
            return (
                f"python - <<'END'\nfrom pathlib import Path\npath = Path({path!r})\ntext = path.read_text()\n"
                f"old, new = {old!r}, {new!r}\nassert text.count(old) == 1\n"
                "path.write_text(text.replace(old, new))\nEND"
            )
        case Create(path, text):
            return f"cat > {path} <<'END'\n{text}END"
        case Finish():
            return "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"


def _openhands_call(action: Action) -> tuple[str, dict]:
    match action:
        case Run(command):
            return "terminal", {"command": command}
        case View(path):
            return "file_editor", {"command": "view", "path": f"${{folder}}/{path}"}
        case Replace(path, old, new):
            arguments = {"command": "str_replace", "path": f"${{folder}}/{path}", "old_str": old, "new_str": new}
            return "file_editor", arguments
        case Create(path, text):
            return "file_editor", {"command": "create", "path": f"${{folder}}/{path}", "file_text": text}
        case Finish(message):
            return "finish", {"message": message}


def _mini(step: Step) -> str:
    return f"{step.thought}\n{tool_call_text('bash', {'command': _bash(step.action)})}"


def _mini_textbased(step: Step) -> str:
    return f"THOUGHT: {step.thought}\n\n```mswea_bash_command\n{_bash(step.action)}\n```"


def _openhands(step: Step) -> str:
    return f"{step.thought}\n{tool_call_text(*_openhands_call(step.action))}"


#: How a step is written, by the agent that reads it.
FORMS: dict[str, Callable[[Step], str]] = {
    "mini": _mini,
    "mini_textbased": _mini_textbased,
    "openhands": _openhands,
}
