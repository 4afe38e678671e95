"""Two ranks of a real server, compared."""

import pytest

pytest.importorskip("sglang")

from eval import ranks

pytestmark = pytest.mark.server


def test_two_ranks_decide_alike_over_a_run_with_faults_and_tools_at_random(tmp_path, capsys, monkeypatch):
    # What the program sets in its environment goes with the test.
    for name in (*ranks.ENVIRONMENT, ranks.SPEED_ENV, ranks.FOLDER_ENV):
        monkeypatch.setenv(name, "")
    status = ranks.main(["--turns", "600", "--out", str(tmp_path)])
    told = capsys.readouterr()
    assert status == 0, told.out + told.err
    # Each kind of decision that a run like this makes was made, and so compared.
    decided = {line.split('"')[1] for line in (tmp_path / "decisions-dp0-tp0.jsonl").read_text().splitlines()}
    assert {"order", "reclaim", "victims"} <= decided


def test_a_single_line_that_differs_is_found_and_shown(tmp_path, capsys):
    lines = ['["order", 1.0, 2, 7, ["a", "b"]]', '["reclaim", 2.0, 1, 9, ["p"]]']
    (tmp_path / "decisions-dp0-tp0.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "decisions-dp0-tp1.jsonl").write_text(lines[0] + '\n["reclaim", 2.0, 1, 8, ["q"]]\n')
    assert not ranks.logs_agree(tmp_path)
    assert "differ in line 2" in (told := capsys.readouterr().out) and '["p"]' in told and '["q"]' in told
    # The end of one log is a difference, too.
    (tmp_path / "decisions-dp0-tp1.jsonl").write_text(lines[0] + "\n")
    assert not ranks.logs_agree(tmp_path)
    (tmp_path / "decisions-dp0-tp1.jsonl").write_text("\n".join(lines) + "\n")
    assert ranks.logs_agree(tmp_path)


def test_a_rank_without_a_log_and_logs_without_a_decision_are_no_agreement(tmp_path, capsys):
    (tmp_path / "decisions-dp0-tp0.jsonl").write_text("")
    assert not ranks.logs_agree(tmp_path)
    (tmp_path / "decisions-dp0-tp1.jsonl").write_text("")
    assert not ranks.logs_agree(tmp_path)
    assert "nothing was decided" in capsys.readouterr().out
