"""A task for a coding agent: a small git repository, what the model answers, and a check of the end."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mars_sglang.emulation.model_folder import tool_call_text

#: What a command of a task may take before its agent gives it up. Alone on a core none takes more than a few seconds.
COMMAND_LIMIT_S = 120

#: Runs a Python repository's tests. It leaves nothing behind but ``__pycache__``.
PYTEST = "python -m pytest -q -p no:cacheprovider"


class TaskError(ValueError):
    """A task that is badly written or cannot run here, or a form that is not known; the message says what is."""


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
    """Writing a new file, of whole lines, into a folder that is there."""

    path: str
    text: str

    def __post_init__(self) -> None:
        # Both would end differently in a here document than in a file editor.
        if not self.text.endswith("\n") or "END" in self.text.splitlines():
            raise TaskError(f"new file {self.path!r}: its text has to end with a line break and have no line 'END'")


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
class Commit:
    """A commit in a repository's past."""

    message: str
    files: Mapping[str, str]
    """The files that it writes, by path."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a session works on. The last step is a :class:`Finish`.

    Its commands stay in its folder, need no network, and leave the same files behind in every run, apart from those
    that its ``.gitignore`` names.
    """

    name: str
    issue: str
    """What the user asks for."""
    files: Mapping[str, str]
    """The repository at the start, by path, without what only its past has."""
    steps: tuple[Step, ...]
    check: str = PYTEST
    """The command whose exit status says whether the tests pass."""
    needs: tuple[str, ...] = ()
    """Executables that its commands call, apart from Python, git and what every Linux system has."""
    history: tuple[Commit, ...] = ()
    """Oldest first; ``files`` are the commit after them."""

    def make(self, folder: Path) -> None:
        """Write the repository into ``folder``, which may not exist yet. Its commits have the same ids everywhere.

        Raises:
            TaskError: an executable that the task needs is not there.
        """
        missing = [name for name in ("git", *self.needs) if shutil.which(name) is None]
        if missing:
            raise TaskError(
                f"task {self.name!r} needs {' and '.join(missing)} on the PATH; install it or choose another task"
            )
        folder.mkdir(parents=True, exist_ok=True)
        _git(folder, "init", "--quiet", "--initial-branch=main")
        # An agent's terminal may be a real one, where a pager would wait for a key.
        _git(folder, "config", "core.pager", "cat")
        _git(folder, "fast-import", "--quiet", given=_commits((*self.history, Commit("start", self.files))))
        _git(folder, "reset", "--quiet", "--hard")

    def passes(self, folder: Path) -> bool:
        """Whether the repository's tests pass, the ones that it started with and unchanged."""
        for name, text in self.files.items():
            path = folder / name
            if path.name.startswith("test_") and not (path.is_file() and path.read_bytes() == text.encode()):
                return False
        return run_shell(self.check, folder).returncode == 0

    @staticmethod
    def digest(folder: Path) -> str:
        """SHA-256 of the paths and contents of all files in ``folder`` that git does not ignore, in hex.

        Two folders in which a task ended alike have the same, whatever was committed there and when.
        """
        listed = _git(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split(b"\0")
        digest = hashlib.sha256()
        for name in sorted(set(listed)):
            path = folder / os.fsdecode(name)
            # A deleted file is listed until git is told of it.
            if path.is_file():
                digest.update(name + b"\0" + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

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


def run_shell(command: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a task's command; its ``python`` is this one, which has pytest. Both its streams are in ``stdout``.

    One that takes too long is ended with all that it started, and has the status of the signal.
    """
    environment = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    process = subprocess.Popen(
        command,
        shell=True,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=COMMAND_LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    return subprocess.CompletedProcess(command, process.returncode, output)


def _commits(commits: Sequence[Commit]) -> bytes:
    """A stream for ``git fast-import``; one a minute, so that nothing in it depends on when or where it is made."""
    stream = []
    for number, commit in enumerate(commits):
        stream.append(f"commit refs/heads/main\ncommitter task <task@localhost> {1_700_000_000 + 60 * number} +0000\n")
        stream.append(f"data {len(commit.message.encode())}\n{commit.message}\n")
        for name, text in commit.files.items():
            stream.append(f"M 100644 inline {name}\ndata {len(text.encode())}\n{text}\n")
    return "".join(stream).encode()


def _git(folder: Path, *arguments: str, given: bytes = b"") -> bytes:
    # Not the settings of whoever runs this: signing or hooks have no place here.
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    command = ["git", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, input=given).stdout


def shell_command(action: Action) -> str:
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
            # Without one it stops to ask after 30 s with no output.
            return "terminal", {"command": command, "timeout": COMMAND_LIMIT_S}
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
    return f"{step.thought}\n{tool_call_text('bash', {'command': shell_command(step.action)})}"


def _mini_textbased(step: Step) -> str:
    return f"THOUGHT: {step.thought}\n\n```mswea_bash_command\n{shell_command(step.action)}\n```"


def _openhands(step: Step) -> str:
    return f"{step.thought}\n{tool_call_text(*_openhands_call(step.action))}"


#: How a step is written, by the agent that reads it.
FORMS: dict[str, Callable[[Step], str]] = {
    "mini": _mini,
    "mini_textbased": _mini_textbased,
    "openhands": _openhands,
}
