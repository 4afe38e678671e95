import signal
import subprocess

import pytest

from eval.agents import task as task_module
from eval.agents.task import FORMS, Create, Finish, Task, TaskError, run_shell, write_scripts
from eval.agents.tasks import TASKS
from mars_sglang.emulation.script import Scripts


def made(name, folder):
    TASKS[name].make(folder)
    return TASKS[name], folder


def test_there_are_a_dozen_tasks_of_8_to_40_steps():
    assert len(TASKS) >= 12
    for task in TASKS.values():
        assert 8 <= len(task.steps) <= 40, task.name
        assert isinstance(task.steps[-1].action, Finish)
        assert any(name.split("/")[-1].startswith("test_") for name in task.files), task.name


def test_every_form_of_every_task_is_a_script(tmp_path):
    write_scripts(TASKS, tmp_path)
    scripts = Scripts.load(tmp_path)
    for task in TASKS.values():
        for form in FORMS:
            assert scripts.answer(task.prompt(form, tmp_path)).splitlines()[0].endswith(task.steps[0].thought)


def test_repository_has_the_same_commits_in_every_folder(tmp_path):
    heads = set()
    for name in ("one", "a/longer/name"):
        _, folder = made("regression", tmp_path / name)
        heads.add(subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=folder))
        assert subprocess.check_output(["git", "status", "--porcelain"], cwd=folder) == b""
        assert len(subprocess.check_output(["git", "log", "--oneline"], cwd=folder).splitlines()) == 61
    assert len(heads) == 1


def test_long_history_is_shown_on_a_terminal_without_waiting_for_a_key(tmp_path):
    _, folder = made("regression", tmp_path / "repository")
    ran = run_shell("TERM=xterm python -c \"import pty; raise SystemExit(pty.spawn(['git', 'log']))\"", folder)
    assert ran.returncode == 0
    assert ran.stdout.count(b"Author: task") == 61


def test_files_are_written_byte_for_byte(tmp_path):
    for task in TASKS.values():
        folder = tmp_path / task.name
        task.make(folder)
        assert {name: (folder / name).read_bytes().decode() for name in task.files} == task.files


@pytest.mark.parametrize("change", ["def test_nothing(): pass\n", None])
def test_task_whose_tests_were_changed_or_deleted_does_not_pass(tmp_path, change):
    task, folder = made("durations", tmp_path / "repository")
    tests = folder / "tests" / "test_parse.py"
    tests.unlink() if change is None else tests.write_text(change)
    assert not task.passes(folder)


def test_executable_that_is_not_there_is_named_before_anything_is_made(tmp_path):
    task = Task("wants", "", {}, (), needs=("git", "no-such-compiler"))
    with pytest.raises(TaskError, match="'wants' needs no-such-compiler on the PATH"):
        task.make(tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize("text", ["no end", "", "one\nEND\ntwo\n"])
def test_new_file_that_a_shell_would_write_differently_is_refused(text):
    with pytest.raises(TaskError, match=r"new file 'a\.txt'"):
        Create("a.txt", text)


def test_digest_is_that_of_the_files_and_not_of_where_they_are(tmp_path):
    _, one = made("durations", tmp_path / "one")
    _, other = made("durations", tmp_path / "a" / "longer" / "name")
    assert Task.digest(one) == Task.digest(other)
    (one / "durations" / "__pycache__").mkdir()
    (one / "durations" / "__pycache__" / "parse.pyc").write_bytes(b"ignored")
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--allow-empty", "-qm", "x"], cwd=one)
    assert Task.digest(one) == Task.digest(other)


@pytest.mark.parametrize(
    "change",
    ["echo >> README.md", "touch new.txt", "rm README.md", "git rm -q README.md", "mv README.md READ.md"],
)
def test_changing_a_file_changes_the_digest(tmp_path, change):
    _, folder = made("durations", tmp_path / "repository")
    before = Task.digest(folder)
    assert run_shell(change, folder).returncode == 0
    assert Task.digest(folder) != before


def test_command_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(task_module, "COMMAND_LIMIT_S", 0.2)
    # The second one holds the pipe open until it ends as well.
    ran = run_shell("echo begun; sleep 1000 & sleep 1000; echo over", tmp_path)
    assert (ran.stdout, ran.returncode) == (b"begun\n", -signal.SIGKILL)
