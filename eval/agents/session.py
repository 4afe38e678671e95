"""One session of an unmodified agent: its own program, in its own interpreter, against a server."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from eval.agents.task import Task, TaskError
from mars_sglang.emulation.model_folder import cache_folder

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent package and the environment where it is installed."""

    package: str
    environment: str
    """The folder of its virtual environment, as ``scripts/install_agents.sh`` names it."""
    variable: str
    """Environment variable with the path of another interpreter that has the package."""
    driver: str

    def python(self) -> Path:
        """The agent's interpreter; it may not exist."""
        given = os.environ.get(self.variable)
        return Path(given) if given else cache_folder() / "agents" / self.environment / "bin" / "python"

    def missing(self) -> str | None:
        """A sentence on why the agent cannot run; None if it can."""
        python = self.python()
        if python.is_file():
            return None
        return (
            f"{self.package} is not installed: there is no {python}; run scripts/install_agents.sh, or set "
            f"{self.variable} to an interpreter that has it"
        )


_MINI = Agent("mini-swe-agent", "mini", "MARS_AGENTS_MINI_PYTHON", "mini_swe_agent.py")
_OPENHANDS = Agent("openhands-sdk", "openhands", "MARS_AGENTS_OPENHANDS_PYTHON", "openhands_sdk.py")

#: By the form of a task's script.
AGENTS = {"mini": _MINI, "mini_textbased": _MINI, "openhands": _OPENHANDS}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a session went."""

    report: dict
    """What the driver says: agent, version, turns, ended, and for OpenHands its conversation."""
    passed: bool
    """Whether the task's tests pass in the folder now."""
    log: str
    """What the agent wrote to standard error."""


class Session:
    """An agent at work. Ends with the ``with`` block."""

    def __init__(self, task: Task, form: str, url: str, folder: Path, model: str = "m") -> None:
        """Make the task's repository in ``folder`` and start the agent there.

        Args:
            form: a key of :data:`AGENTS`.
            url: of the server, without ``/v1``.

        Raises:
            TaskError: an unknown form, or an agent that is not installed.
        """
        agent = AGENTS.get(form)
        if agent is None:
            raise TaskError(f"agent {form!r} is unknown; known: {', '.join(AGENTS)}")
        if missing := agent.missing():
            raise TaskError(missing)
        self._task, self._folder = task, folder
        task.make(folder)
        order = {
            "url": f"{url}/v1",
            "model": model,
            "folder": str(folder),
            "prompt": task.prompt(form, folder),
            "config": form,
        }
        self._log_path = folder.parent / f"{folder.name}.log"
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [str(agent.python()), str(_HERE / agent.driver)],
                # Where the agent may leave things of its own, which are no part of the repository.
                cwd=folder.parent,
                env=_environment(folder.parent / f"{folder.name}.home"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._process.stdin.write(json.dumps(order).encode())
        self._process.stdin.close()
        self._process.stdin = None

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *error) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def wait(self, timeout_s: float = 300.0) -> Outcome:
        """
        Raises:
            subprocess.TimeoutExpired: the agent is still at work.
        """
        output, _ = self._process.communicate(timeout=timeout_s)
        lines = output.decode(errors="replace").strip().splitlines()
        log = self._log_path.read_text(errors="replace")
        try:
            report = json.loads(lines[-1])
        except (IndexError, ValueError):
            raise TaskError(f"the agent ended with {self._process.returncode} and no report:\n{log[-4000:]}") from None
        return Outcome(report, self._task.passes(self._folder), log)


def _environment(home: Path) -> dict[str, str]:
    """Settings of the agents of whoever runs this stay out; ``python`` is one that has pytest."""
    home.mkdir(exist_ok=True)
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TMPDIR", "TERM") if name in os.environ}
    return kept | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HOME": str(home),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT": "1",
    }
