"""One session of an unmodified agent: its own program, in its own interpreter, against a server."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import psutil

import mars_sglang
from eval.agents.task import COMMAND_LIMIT_S, Task, TaskError
from eval.server import end_with_parent
from mars_sglang.emulation.model_folder import cache_folder
from mars_sglang.tools.channel import ADDRESS_ENV
from mars_sglang.tools.description import API_KEY_ENV

_HERE = Path(__file__).parent

#: What an agent sends as its API key: some have to send one.
_KEY = "none"


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
    """An agent at work, and all processes that it starts. Ends with the ``with`` block."""

    def __init__(
        self, task: Task, form: str, url: str, folder: Path, model: str = "m", *,
        held: bool = False, cores: Collection[int] | None = None, reports_to: str | None = None,
    ) -> None:  # fmt: skip
        """Make the task's repository in ``folder``, start the agent, and give it the task.

        Args:
            form: a key of :data:`AGENTS`.
            url: of the server, without ``/v1``.
            held: the agent is started and waits for :meth:`begin`.
            cores: that it and its tools may use; None: those of this process.
            reports_to: a sidecar's address, to which the agent's tools are reported by our client library. The
                program is then the folder's parent's name, which an agent without an id of its own sends as its id.

        Raises:
            TaskError: an unknown form, an agent that is not installed, or a task that cannot run here.
        """
        agent = AGENTS.get(form)
        if agent is None:
            raise TaskError(f"agent {form!r} is unknown; known: {', '.join(AGENTS)}")
        if missing := agent.missing():
            raise TaskError(missing)
        self._task, self._folder = task, folder
        task.make(folder)
        self._order = {
            "url": f"{url}/v1",
            "model": model,
            "key": _KEY,
            "folder": str(folder),
            "prompt": task.prompt(form, folder),
            "config": form,
            "command_limit_s": COMMAND_LIMIT_S,
            "program": folder.parent.name,
            "library": reports_to and str(Path(mars_sglang.__file__).parents[1]),
        }
        self.turns: list[dict] = []
        """What the driver tells of each turn that was answered, as ``driver.py`` says."""
        self.in_turn = False
        """Whether a request is on its way now."""
        self._told = False
        self._report: dict | None = None
        self._ready = threading.Event()
        """Set when the driver told something, or ended."""
        self._home = folder.parent / f"{folder.name}.home"
        self._log_path = folder.parent / f"{folder.name}.log"
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [str(agent.python()), str(_HERE / agent.driver)],
                # Where the agent may leave things of its own, which are no part of the repository.
                cwd=folder.parent,
                env=_environment(self._home, reports_to),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: _start_on(cores),
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not held:
            self.begin()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Of the agent's first process, which leads a process group."""
        return self._process.pid

    def ready(self, timeout_s: float = 300.0) -> None:
        """Wait until the agent is imported and waits for its task, or has it.

        Raises:
            TaskError: it ended before, or took longer.
        """
        if not self._ready.wait(timeout_s):
            raise TaskError(f"the agent did not start in {timeout_s:.0f} s:\n{self._log()[-4000:]}")
        if not self._told:
            raise self._no_report()

    def begin(self) -> None:
        """Give the agent its task."""
        # An agent that is gone by now is told of by who waits for it.
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(self._order).encode() + b"\n")
            self._process.stdin.close()

    def report(self, timeout_s: float = 300.0) -> dict:
        """Wait for the agent's end; what the driver says of it.

        Raises:
            subprocess.TimeoutExpired: the agent is still at work.
            TaskError: it ended and said nothing.
        """
        self._reader.join(timeout_s)
        if self._reader.is_alive():
            raise subprocess.TimeoutExpired(self._process.args, timeout_s)
        self._process.wait()
        if self._report is None:
            raise self._no_report()
        return self._report

    def wait(self, timeout_s: float = 300.0) -> Outcome:
        """Wait for the agent's end and run the task's check; raises as :meth:`report` does."""
        report = self.report(timeout_s)
        return Outcome(report, self._task.passes(self._folder), self._log())

    def close(self) -> None:
        """End the agent and what it started, at once. Safe to call twice."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        # Tools have process groups of their own, and a terminal multiplexer is no child any more: they are known by
        # the home that nobody else has.
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("HOME") == str(self._home):
                    process.kill()
        self._reader.join(10)
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.stdout.close()

    def _read(self) -> None:
        for line in self._process.stdout:
            told = json.loads(line)
            self.in_turn = "asked" in told
            if "answered" in told:
                self.turns.append(told["answered"])
            self._report = told.get("report", self._report)
            self._told = True
            self._ready.set()
        self._ready.set()

    def _no_report(self) -> TaskError:
        return TaskError(f"the agent ended with {self._process.wait()} and no report:\n{self._log()[-4000:]}")

    def _log(self) -> str:
        return self._log_path.read_text(errors="replace")


def _start_on(cores: Collection[int] | None) -> None:
    """In the agent's process, before it is one: its cores, and that it ends with who started it."""
    if cores is not None:
        os.sched_setaffinity(0, cores)
    end_with_parent(signal.SIGKILL)


def _environment(home: Path, reports_to: str | None) -> dict[str, str]:
    """Settings of the agents of whoever runs this stay out; ``python`` is one that has pytest."""
    home.mkdir(exist_ok=True)
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TMPDIR", "TERM") if name in os.environ}
    reported = {} if reports_to is None else {ADDRESS_ENV: reports_to, API_KEY_ENV: _KEY}
    return (
        kept
        | reported
        | {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(home),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT": "3",
        }
    )
