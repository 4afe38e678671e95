"""The cost benchmark: that each part measures what it says, and that its report has it. Nothing is timed here."""

import json
from types import SimpleNamespace

import pytest

from eval.cost import __main__ as command
from eval.cost import timing
from eval.cost.curve import SMALLEST, Curve, Spread
from eval.cost.policies import admission_names, turn_policy_curves
from eval.cost.report import markdown
from eval.cost.timing import Contender, Effort, is_long, measure, measure_calls
from mars_sglang.core.policy import admission_policy, turn_policy_names

ONE_ROUND = Effort(rounds=1, round_s=0.0)


def rows(text: str, section: str) -> list[list[str]]:
    """Cells of the first table of a section, its head first."""
    lines = text.partition(f"## {section}")[2].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return [table[0], *table[2:]]


# -- figures -----------------------------------------------------------------------------------


def test_a_ratio_is_that_of_one_round():
    curve = Curve("c", "C", "things", base="base")
    curve.put("base", 8, [1.0, 10.0, 4.0])
    curve.put("ours", 8, [2.0, 10.0, 12.0])
    assert curve.ratio("ours", 8) == Spread(median=2.0, low=1.0, high=3.0)
    assert curve.ratio("base", 8) is None


def test_without_another_series_a_point_is_compared_with_the_smallest_size():
    curve = Curve("c", "C", "things", base=SMALLEST)
    curve.put("ours", 1, [2.0, 4.0])
    curve.put("ours", 1000, [2.0, 6.0])
    assert curve.ratio("ours", 1000) == Spread(median=1.25, low=1.0, high=1.5)
    assert curve.ratio("ours", 1) is None


def test_what_was_not_measured_is_an_empty_cell_and_has_no_ratio():
    curve = Curve("c", "C", "things", base="base")
    curve.put("base", 1, [1.0])
    curve.put("base", 2, [1234.5])
    curve.put("slow", 1, [50.0])
    assert rows(markdown([curve], 1), "C") == [
        ["things", "base", "slow"],
        ["1", "1.00 (1.00-1.00)", "50.0 (50.0-50.0)"],
        ["2", "1,234 (1,234-1,234)", ""],
    ]
    assert curve.ratio("slow", 2) is None


def test_no_rounds_are_refused():
    with pytest.raises(ValueError, match="rounds: 0; accepted: 1 or more"):
        Effort(rounds=0)


# -- timing ------------------------------------------------------------------------------------


def test_what_is_restored_is_restored_after_each_run_and_a_round_is_whole_cycles():
    log = []
    contender = Contender(lambda: log.append("run"), lambda: log.append("restore"), cycle=4)
    measured = measure({"it": contender}, Effort(rounds=2, round_s=0.0))
    assert log == ["run", "restore"] * (len(log) // 2)
    warm_up = 2
    assert len(log) // 2 - warm_up == 2 * 4
    assert len(measured["it"]) == 2


def test_a_fixed_number_of_calls_is_kept_without_a_warm_up():
    log = []
    measure({"it": Contender(lambda: log.append(1), calls=1)}, Effort(rounds=3))
    assert len(log) == 3


def test_contenders_take_turns():
    log = []
    contenders = {name: Contender(lambda name=name: log.append(name), calls=1) for name in "ab"}
    measure(contenders, Effort(rounds=3))
    assert "".join(log) == "baabba"


def test_calls_that_are_restored_are_timed_each_and_the_mean_is_theirs(monkeypatch):
    now_s, costs = 0.0, iter([0.001, 0.001, 0.002, 0.006])

    def work() -> None:
        nonlocal now_s
        now_s += next(costs)

    monkeypatch.setattr(timing, "time", SimpleNamespace(thread_time=lambda: now_s))
    measured = measure_calls({"it": Contender(work, lambda: None, calls=4, items=2)}, Effort(rounds=1))
    assert measured["it"][0] == pytest.approx([500.0, 500.0, 1_000.0, 3_000.0])


def test_the_time_is_per_thing_done_and_what_is_restored_is_not_timed(monkeypatch):
    now_s = 0.0

    def work(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    monkeypatch.setattr(timing, "time", SimpleNamespace(thread_time=lambda: now_s))
    contenders = {
        "alone": Contender(lambda: work(0.003)),
        "of ten": Contender(lambda: work(0.003), lambda: work(1.0), items=10),
    }
    measured = measure(contenders, Effort(rounds=2, round_s=0.01))
    assert measured["alone"] == pytest.approx([3_000.0, 3_000.0])
    assert measured["of ten"] == pytest.approx([300.0, 300.0])


def test_a_call_is_long_when_even_its_best_round_was():
    assert not is_long([900_000.0, 100_000.0])
    assert is_long([900_000.0, 500_000.0])


# -- parts -------------------------------------------------------------------------------------


def test_every_registered_policy_is_measured():
    curves = {curve.name: curve for curve in turn_policy_curves([1, 3], ONE_ROUND, seed=0)}
    for name in ("order_turns", "order_reclaim", "order_victims", "observe"):
        assert set(turn_policy_names()) < set(curves[name].values)
        assert all(sorted(points) == [1, 3] for points in curves[name].values.values())
    assert all(admission_policy(name) for name in admission_names())


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Results of the command over all its parts, at sizes of a few."""
    folder = tmp_path_factory.mktemp("cost")
    assert command.main(["--quick", "--max-programs", "20", "--out", str(folder)]) == 0
    return folder


def test_a_pass_is_measured_with_ours_and_sglangs_orders(out):
    head, *lines = rows((out / "cost.md").read_text(), "One scheduling pass")
    assert head == [
        "waiting turns",
        "mars",
        "mars over SGLang's cache",
        "mars, all turns new",
        "fcfs",
        "lpm",
        "hrrn",
        "shortest-prefill-first",
    ]
    assert [line[0] for line in lines] == ["1", "8", "20"]
    assert all(cell for line in lines for cell in line)


def test_evictions_are_measured_against_lru(out):
    head, *lines = rows((out / "cost.md").read_text(), "One eviction")
    assert head == ["retained contexts", "SGLang's LRU", "mars, all KV retained", "mars, KV of nobody used last"]
    assert [line[0] for line in lines] == ["1", "8", "20"]


def test_gate_and_control_process_are_measured_against_known_programs(out):
    text = (out / "cost.md").read_text()
    for section in ("One event in the control process", "Resident memory of the control process"):
        assert [line[0] for line in rows(text, section)[1:]] == ["1", "20"]
    for section in ("The gate: a turn arrives", "The gate: a turn ends"):
        head, *lines = rows(text, section)
        assert {"footprint", "footprint, p99", "thunder", "thunder, p99"} < set(head)
        assert [line[0] for line in lines] == ["20"] and all(lines[0])
    for section in ("The gate with a queue: a new program's turn is held", "The gate with a queue: a turn ends"):
        assert [line[0] for line in rows(text, section)[1:]] == ["0", "20"]
    assert rows(text, "One look at an open pause")[0] == ["pauses due at once", "look", "look, host loaded"]


def test_a_control_process_with_programs_holds_memory(out):
    measured = json.loads((out / "cost.json").read_text())
    megabytes = measured["memory"]["values"]["resident"]
    assert all(5 < value < 1_000 for values in megabytes.values() for value in values)
    assert measured["cpu"]["values"]["event"]["20"][0] >= 0


def test_each_curve_has_a_picture_that_the_report_shows(out):
    text = (out / "cost.md").read_text()
    measured = json.loads((out / "cost.json").read_text())
    assert len(measured) >= 11
    for name in measured:
        assert f"({name}.png)" in text
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_part_alone_and_a_wrong_size(capsys):
    assert command.main(["--quick", "--part", "gate", "--max-programs", "2"]) == 0
    printed = capsys.readouterr().out
    assert "## The gate" in printed
    assert "mars" in rows(printed, "The gate: a turn ends")[0]
    assert "## One scheduling pass" not in printed
    with pytest.raises(SystemExit):
        command.main(["--max-programs", "0"])
    assert "--max-programs: 0; accepted: 1 or more" in capsys.readouterr().err
