"""Runs one session of an agent, or writes the scripts that a server needs for it: `python -m eval.agents --help`."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from eval.agents.session import AGENTS, Session
from eval.agents.task import TaskError, write_scripts
from eval.agents.tasks import TASKS


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 when the task's tests pass at the end."""
    parser = argparse.ArgumentParser(prog="python -m eval.agents", description=__doc__.split(":")[0] + ".")
    parser.add_argument("--write-scripts", type=Path, metavar="FOLDER", help="for emulate --scripts, and exit")
    parser.add_argument("--agent", choices=AGENTS, default="openhands", help="(%(default)s)")
    parser.add_argument("--task", choices=TASKS, default="durations", help="(%(default)s)")
    parser.add_argument("--url", default="http://127.0.0.1:30000", help="of the server (%(default)s)")
    parser.add_argument("--model", default="m", help="name that the agent asks the server for (%(default)s)")
    own = parser.parse_args(argv)
    if own.write_scripts is not None:
        write_scripts(TASKS, own.write_scripts)
        return 0
    folder = Path(tempfile.mkdtemp(prefix="mars-agent-")) / "repository"
    try:
        with Session(TASKS[own.task], own.agent, own.url, folder, own.model) as session:
            outcome = session.wait()
    except TaskError as error:
        print(f"python -m eval.agents: {error}", file=sys.stderr)
        return 2
    print(json.dumps(outcome.report | {"passed": outcome.passed, "folder": str(folder)}))
    return 0 if outcome.passed else 1


if __name__ == "__main__":
    sys.exit(main())
