import os

import pytest

from eval.agents.rehearsal import main, rehearse
from eval.agents.task import Task
from eval.agents.tasks import TASKS

#: Their tools take more than ten seconds.
LONG = ("calculator", "intervals", "orbits", "similar", "warehouse")


def rehearsed(task, folder):
    task.make(folder)
    return Task.digest(folder), list(rehearse(task, folder)), Task.digest(folder)


@pytest.mark.parametrize("name", [name for name in TASKS if name not in LONG])
def test_task_fails_at_the_start_and_ends_alike_and_passing_in_two_folders(name, tmp_path):
    task = TASKS[name]
    start, ran, end = rehearsed(task, tmp_path / "repository")
    assert [step.step for step in ran] == list(task.steps)
    assert task.passes(tmp_path / "repository")
    task.make(tmp_path / "start")
    assert not task.passes(tmp_path / "start")
    assert start != end
    other_start, _, other_end = rehearsed(task, tmp_path / "another" / "folder")
    assert (other_start, other_end) == (start, end)


@pytest.mark.skipif("MARS_LONG_TASKS" not in os.environ, reason="takes two minutes of CPU; set MARS_LONG_TASKS=1")
def test_long_tasks_fail_at_the_start_and_pass_after_their_steps(capsys):
    assert main(LONG) == 0, capsys.readouterr().out


def test_what_tools_cost_is_in_a_line_for_each_task(capsys):
    assert main(["settings", "--steps"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(TASKS["settings"].steps) + 1
    name, steps, cpu_s, longest_s, output_kb, digest, result = lines[-1].split()
    assert (name, steps, result) == ("settings", str(len(TASKS["settings"].steps)), "passes")
    assert 0 < float(longest_s) <= float(cpu_s)
    assert float(output_kb) > 1
    assert len(digest) == 12


def test_unknown_task_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        main(["nothing"])
    assert "unknown task 'nothing'; known: accesslog, calculator" in capsys.readouterr().err
