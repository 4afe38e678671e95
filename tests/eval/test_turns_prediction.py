"""The evaluation of predicted turns: order, no peeking, and figures worked out by hand."""

import math

import pytest

from eval.prediction.turns import (
    AT,
    RULES,
    Rivals,
    bias,
    costs_us,
    log_error,
    predictions,
    rank_correlation,
    report,
    table,
)
from eval.workload.generator import generate
from tests.eval.builders import program, turn


def of(turns: int, id: str, tool: str = "ls", tool_s: float = 1.0):
    return program(*(turn(tool=tool, tool_s=tool_s) for _ in range(turns)), id=id)


def test_ranks_worked_out_by_hand():
    assert rank_correlation([1, 2, 3], [10, 20, 400]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5.
    assert rank_correlation([1, 2, 2, 9], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert rank_correlation([5, 5, 5], [1, 2, 3]) == 0
    assert math.isnan(rank_correlation([1, 2], [1, 2]))


def test_errors_worked_out_by_hand():
    assert log_error([2, 10], [1, 20]) == pytest.approx(math.log(2))
    assert bias([2, 10], [1, 20]) == pytest.approx(12 / 21)


def test_rivals_know_only_what_is_over():
    rivals = Rivals()
    assert rivals.predict(5) == (15, 15, 15)
    for turns in (10, 40, 16):
        rivals.observe_over(turns)
    assert rivals.predict(0) == (22, 22, 16)
    assert rivals.predict(20) == (20, 2, 1)
    assert rivals.predict(50) == (1, 1, 1)


def test_a_program_is_predicted_at_each_number_of_turns_that_it_reaches():
    found = list(predictions([of(12, "a"), of(5, "b")], rate=1e-6, seed=0, max_pause_s=60))
    assert sorted((p.program, p.turns, p.left) for p in found) == [("a", 0, 12), ("a", 5, 7), ("a", 10, 2), ("b", 0, 5)]
    first, second = [p for p in found if p.turns == 0]
    assert first.said == pytest.approx((20,) * len(RULES))
    assert second.said[2:] == (first.left,) * 3


def test_nothing_is_known_of_programs_that_overlap():
    found = list(predictions([of(4, "a"), of(9, "b")], rate=1e6, seed=0, max_pause_s=60))
    assert [p.said[2:] for p in found if p.turns == 0] == [(20, 20, 20)] * 2


def test_no_prediction_is_changed_by_what_comes_after_it():
    programs = generate(30, seed=5)

    def early(cut: int) -> list:
        """Predictions of those with more turns than ``cut``, where all are cut there, one program at a time."""
        shorter = [p.cut(cut) if i == 7 else p for i, p in enumerate(programs)]
        found = list(predictions(shorter, 1e-9, 3, max_pause_s=60))
        upto = next(i for i, p in enumerate(found) if p.program == programs[7].id)
        return [p.said for p in found[: upto + 1]], [p.said for p in found[upto + 1 :]]

    whole, part = early(10_000), early(2)
    assert whole[0] == part[0]
    assert whole[1] != part[1]


@pytest.mark.parametrize("tool_s", [1.0, 45.0])
def test_ends_that_nobody_says_are_learned_from_silence_and_pauses_are_no_ends(tool_s):
    programs = [of(12, f"p{i}", tool_s=tool_s) for i in range(60)]
    said, unsaid = (
        list(predictions(programs, 1e-6, 0, ends_said=ends_said, max_pause_s=60))[-1].said[0]
        for ends_said in (True, False)
    )
    assert unsaid == pytest.approx(said, rel=0.05)


def test_tables_have_a_row_per_rule_and_a_report_every_measure():
    run = list(predictions(generate(20, seed=1), 0.1, 0, max_pause_s=60))
    lines = table([run], log_error).splitlines()
    assert len(lines) == 2 + len(RULES)
    assert all(line.count("|") == len(AT) + 3 for line in lines)
    text = report("some", [run, run])
    assert text.count("| ours |") == 3
    assert "20 at 0" in text


def test_costs_are_of_predicting_and_of_learning():
    assert list(costs_us(generate(3, seed=1))) == ["a prediction", "a turn", "an end"]
