"""Lines of the decision log; two ranks of a real server are compared by tests/eval/test_ranks.py."""

import json

import pytest

from mars_sglang.engine.decision_log import FOLDER_ENV, DecisionLog, open_decision_log


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_without_the_variable_there_is_no_log(monkeypatch):
    monkeypatch.delenv(FOLDER_ENV, raising=False)
    assert open_decision_log("dp0-tp0") is None


def test_each_rank_writes_a_file_of_its_own_and_equal_decisions_make_equal_files(monkeypatch, tmp_path):
    monkeypatch.setenv(FOLDER_ENV, str(tmp_path))
    for rank in ("dp0-tp0", "dp0-tp1"):
        log = open_decision_log(rank)
        log.write("order", 12.345678901234567, ["b", "a", "c"])
        log.write("reclaim", 13.0, ["program"])
    first, second = sorted(tmp_path.iterdir())
    assert (first.name, second.name) == ("decisions-dp0-tp0.jsonl", "decisions-dp0-tp1.jsonl")
    assert first.read_bytes() == second.read_bytes()
    kind, now_s, count, _, shown = lines(first)[0]
    assert (kind, now_s, count, shown) == ("order", 12.345678901234567, 3, ["b", "a", "c"])


def test_a_line_is_there_as_soon_as_it_is_written(tmp_path):
    log = DecisionLog(tmp_path / "log")
    log.write("victims", 1.0, ["a"])
    assert len(lines(tmp_path / "log")) == 1


def test_two_orders_that_differ_where_it_is_not_shown_differ_in_the_checksum(tmp_path):
    ids = [f"turn-{number}" for number in range(100)]
    log = DecisionLog(tmp_path / "log")
    log.write("order", 1.0, ids)
    log.write("order", 1.0, [*ids[:98], ids[99], ids[98]])
    # One id that reads as two makes another line than the two.
    log.write("order", 1.0, ["a", "b", "c, d", "e", "f"])
    log.write("order", 1.0, ["a", "b", "c", "d, e", "f"])
    one, other, third, fourth = lines(tmp_path / "log")
    assert one[:3] == other[:3] and one[4] == other[4] and one[3] != other[3]
    assert third[3] != fourth[3]


@pytest.mark.parametrize("turn", ["two\nlines", "x" * 10_000, '"quoted"', "é" * 5])
def test_an_id_of_a_client_makes_one_short_line(turn, tmp_path):
    log = DecisionLog(tmp_path / "log")
    log.write("held", 1.0, [turn] * 10)
    (line,) = lines(tmp_path / "log")
    assert line[2] == 10 and line[4] == [turn[:64]] * 4
    assert (tmp_path / "log").stat().st_size < 2000


def test_a_full_log_says_so_and_grows_no_more(tmp_path):
    log = DecisionLog(tmp_path / "log", max_lines=3)
    for number in range(10):
        log.write("reclaim", float(number), ["p"])
    assert [line[0] for line in lines(tmp_path / "log")] == ["reclaim", "reclaim", "full"]
