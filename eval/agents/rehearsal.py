"""Runs the steps of tasks as an agent would, without one, and says what their tools cost: `--help`."""

import argparse
import resource
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.agents.task import Run, Step, Task, TaskError, run_shell, shell_command
from eval.agents.tasks import TASKS


@dataclass(frozen=True, slots=True)
class Ran:
    """What one step did."""

    step: Step
    status: int
    output: str
    """Both streams, as one."""
    cpu_s: float
    """Processor time, in user and in kernel mode, of the command and its children."""


def rehearse(task: Task, folder: Path) -> Iterator[Ran]:
    """Run the steps of ``task``, which was made in ``folder``, one after the other.

    A command that takes longer than an agent would wait for is ended.
    """
    for step in task.steps:
        before = _children_s()
        ran = run_shell(shell_command(step.action), folder)
        yield Ran(step, ran.returncode, ran.stdout.decode(errors="replace"), _children_s() - before)


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0 when every task fails at its start and passes at its end."""
    parser = argparse.ArgumentParser(prog="python -m eval.agents.rehearsal", description=__doc__.split(":")[0] + ".")
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"one or more of {', '.join(TASKS)} (all)")
    parser.add_argument("--steps", action="store_true", help="a line for each step as well")
    own = parser.parse_args(argv)
    if unknown := sorted(set(own.tasks) - set(TASKS)):
        parser.error(f"unknown task {unknown[0]!r}; known: {', '.join(TASKS)}")
    good = True
    print(f"{'task':<13} steps  tool CPU s  longest s  output kB  digest        result")
    for name in own.tasks or TASKS:
        with tempfile.TemporaryDirectory(prefix="mars-rehearsal-") as scratch:
            folder, start = Path(scratch) / "repository", Path(scratch) / "start"
            try:
                TASKS[name].make(folder)
                TASKS[name].make(start)
            except TaskError as error:
                print(f"{name:<13} {error}")
                good = False
                continue
            failed = not TASKS[name].passes(start)
            all_ran = []
            for ran in rehearse(TASKS[name], folder):
                all_ran.append(ran)
                if own.steps:
                    what = ran.step.action.command if isinstance(ran.step.action, Run) else repr(ran.step.action)
                    print(f"  {ran.cpu_s:6.2f} s  {len(ran.output):6d} B  exit {ran.status}  {what[:80]!r}")
            passed = TASKS[name].passes(folder)
            digest = Task.digest(folder)[:12]
        good &= failed and passed
        result = ("passes" if passed else "FAILS") + ("" if failed else ", but DID AT THE START")
        costs = [ran.cpu_s for ran in all_ran]
        kilobytes = sum(len(ran.output) for ran in all_ran) / 1000
        print(f"{name:<13} {len(costs):5d} {sum(costs):11.1f} {max(costs):10.1f} {kilobytes:10.1f}  {digest}  {result}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
