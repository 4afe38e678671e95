"""The command line."""

import pytest

from eval.experiment import command
from eval.experiment.runner import run
from mars_sglang import cli
from tests.eval.experiment.fake_engine import fake_engine, small


def test_it_is_a_command_of_mars_sglang(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "--help"])
    assert ended.value.code == 0
    assert "compare" in capsys.readouterr().out


def test_without_the_extra_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "matplotlib" else object())
    assert command.main(["run", "agreement", "--out", "x"]) == 2
    assert "matplotlib not installed; bench needs the eval extra" in capsys.readouterr().err


def test_list_prints_labels_and_runs_nothing(tmp_path, capsys):
    assert command.main(["run", "agreement", "--out", str(tmp_path / "out"), "--list", "--only", "fcfs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all("fcfs" in line for line in lines)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["run", "nothing", "--out", "x"], "'nothing' is no experiment; accepted: ablation, agreement"),
        (["run", "agreement", "--out", "x", "--only", "zzz"], "--only 'zzz'"),
        (["report", "no-such-folder"], "no-such-folder: no such directory"),
        (["compare", "no-such-folder", "x"], "no-such-folder: no such directory"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(argv, said, capsys):
    assert command.main(argv) == 1
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_report_and_compare_from_a_shell(tmp_path, capsys):
    run(small(seeds=0), tmp_path, say=lambda _: None, engine=fake_engine)
    assert command.main(["report", str(tmp_path), "--base", "lpm"]) == 0
    assert (tmp_path / "report" / "report.md").is_file()
    assert command.main(["report", str(tmp_path), "--base", "hrrn"]) == 1
    assert "accepted: fcfs, lpm, mars+mars" in capsys.readouterr().err
    assert command.main(["compare", str(tmp_path), str(tmp_path)]) == 0
    assert "6 cells are in both" in capsys.readouterr().out


def test_an_empty_directory_has_nothing_to_report(tmp_path, capsys):
    assert command.main(["report", str(tmp_path)]) == 1
    assert "no finished cell" in capsys.readouterr().err
