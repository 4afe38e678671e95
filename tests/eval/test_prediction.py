"""The evaluation of forecasts: order, no peeking, and figures worked out by hand."""

import math
from dataclasses import replace

import pytest

from eval.prediction.order import LOOKS_S, What, steps
from eval.prediction.report import Study, dormancy, markdown
from eval.prediction.rules import RULES, Bet, Rivals
from eval.prediction.score import Forecast, coverage, coverage_to_the_digit, score
from eval.workload.generator import generate
from mars_sglang.core.cost_model import CostModel
from mars_sglang.core.pauses import PauseKey
from mars_sglang.core.prediction import PausePredictor
from mars_sglang.emulation.profiles import load_profile
from tests.eval.builders import program, turn

COST = CostModel(load_profile("l40s-llama-3.1-8b"))
TWO = (
    program(turn(tool_s=3.0), turn(tool_s=0.5), turn(tool_s=None), id="a"),
    program(turn(tool_s=1.5), turn(tool_s=None), turn(tool_s=7.0), turn(tool_s=None), id="b"),
)


def test_steps_come_in_time_and_a_pause_is_looked_at_until_it_ends():
    seen = list(steps(TWO, rate=1.0, seed=0))
    assert [s.at_s for s in seen] == sorted(s.at_s for s in seen)
    first = [(s.what, s.elapsed_s) for s in seen if s.pause.key.program == "a" and s.pause.seconds == 3.0]
    assert first == [(What.START, 0.0), (What.LOOK, 1.0), (What.LOOK, 2.0), (What.END, 3.0)]


def test_every_recorded_pause_is_there_once_and_a_missing_one_is_passed_over():
    ends = [(s.pause.key.program, s.pause.seconds) for s in steps(TWO, rate=1.0, seed=0) if s.what is What.END]
    assert sorted(ends) == [("a", 0.5), ("a", 3.0), ("b", 1.5), ("b", 7.0)]


def test_an_end_that_is_not_said_is_a_pause_that_is_only_looked_at():
    never = [s for s in steps(TWO, rate=1.0, seed=0, ends_said=False) if s.pause.seconds == math.inf]
    assert [s.what for s in never].count(What.START) == 2
    assert [s.what for s in never].count(What.LOOK) == 2 * len(LOOKS_S)
    assert What.END not in {s.what for s in never}


def test_programs_overlap_and_what_ends_first_is_known_first():
    slow = program(turn(tool_s=1000.0), turn(tool_s=None), id="slow")
    fast = program(turn(tool_s=1.0), turn(tool_s=None), id="fast")
    ends = [s.pause.key.program for s in steps((slow, fast), rate=10.0, seed=0) if s.what is What.END]
    assert ends == ["fast", "slow"]


def test_no_forecast_is_changed_by_what_comes_after_it():
    programs = generate(12, seed=5)
    cut = 300

    def forecasts(later_factor: float) -> list[tuple]:
        """Of the first pauses, where those that end after the cut are of another length."""
        seen = []
        predictor = PausePredictor()
        for index, step in enumerate(steps(programs, 0.2, 0)):
            known = predictor.predict(step.pause.key, step.elapsed_s)
            seen.append((known.quantile(0.5), known.quantile(0.95), known.deadline_s(10.0)))
            if step.what is What.END:
                seconds = step.pause.seconds * (later_factor if index >= cut else 1.0)
                predictor.observe(step.pause.key, seconds)
        return seen

    honest, other = forecasts(1.0), forecasts(5.0)
    assert honest[: cut + 1] == other[: cut + 1]
    assert honest != other


def test_a_score_of_early_pauses_does_not_depend_on_later_turns():
    programs = [p for p in generate(20, seed=6) if len(p.turns) > 20]
    shorter = [p.cut(20) for p in programs]
    whole, part = (score(steps(some, 1e-6, 0), PausePredictor(), COST) for some in (programs, shorter))
    first = len([t for t in shorter[0].turns[:-1] if t.tool_s is not None])
    starts = [[f for f in s.forecasts if not f.elapsed_s][:first] for s in (whole, part)]
    assert starts[0] == starts[1]


def test_the_future_of_a_pause_is_not_in_its_own_forecast():
    base = TWO[0]
    longer = replace(base, turns=(replace(base.turns[0], tool_s=300.0), *base.turns[1:]))
    quantiles = []
    for one in (base, longer):
        start = next(iter(steps((one,), 1.0, 0)))
        quantiles.append(PausePredictor().predict(start.pause.key).quantile(0.5))
    assert quantiles[0] == quantiles[1]


def test_coverage_shares_out_the_bucket_that_a_quantile_falls_into():
    def at(low, high, before=(False, True, True)):
        return Forecast(0, "shell", 0.0, low, high, before)

    assert coverage([at(0.0, 0.4)], 0.5) == 1.0
    assert coverage([at(0.6, 0.9)], 0.5) == 0.0
    assert coverage([at(0.4, 0.8)], 0.5) == pytest.approx(0.25)
    assert coverage([at(0.0, 0.4), at(0.4, 0.8)], 0.5) == pytest.approx(0.625)
    assert coverage([], 0.5) != coverage([], 0.5)
    assert coverage_to_the_digit([at(0.0, 0.4), at(0.4, 0.8, (True, True, True))], 0) == 0.5


def test_what_a_bet_costs():
    stake = Bet(hold_per_s=0.5, remake_s=10.0)
    assert stake.worth_s == 20.0
    assert stake.cost(4.0, deadline_s=5.0) == 2.0
    assert stake.cost(6.0, deadline_s=5.0) == 12.5
    assert stake.cost(6.0, deadline_s=0.0) == 10.0
    assert [stake.oracle(t) for t in (4.0, 20.0, 1000.0)] == [2.0, 10.0, 10.0]


def test_rivals_know_the_last_and_the_mean_of_the_same_command():
    rivals = Rivals()
    ls, pytest_run = PauseKey("shell", "ls", "p"), PauseKey("shell", "pytest", "p")
    for seconds in (1.0, 29.0):
        rivals.observe(ls, seconds)
    known = rivals.deadlines_s(ls._replace(program="q"), worth_s=20.0)
    assert known["last value"] == 0.0
    assert known["mean per tool"] == 20.0
    assert known["mean per tool, no limit"] == math.inf
    assert known["fixed 2 s"] == 2.0
    assert rivals.deadlines_s(pytest_run, worth_s=20.0)["last value"] == 20.0


def test_no_rule_costs_less_than_the_oracle():
    scores = score(steps(generate(10, seed=1), 0.2, 0), PausePredictor(), COST)
    assert all(scores.ratio(price, rule) >= 1.0 for price, rule in scores.cost)


def test_the_tables_name_every_rule_and_workload():
    programs = generate(10, seed=2)
    scores = score(steps(programs, 0.2, 0), PausePredictor(), COST)
    unsaid = score(steps(programs, 0.2, 0, ends_said=False), PausePredictor(), COST)
    text = markdown([Study("ten", 10, scores)], [Study("again", 10, scores)], [("ten", dormancy(unsaid))])
    assert all(f"| {rule} |" in text for rule in RULES)
    assert "| ten | all |" in text
    assert "| again |" in text
    assert dormancy(unsaid).ends == 10


@pytest.mark.parametrize("workload", ["swebench", "claude-code"])
def test_forecasts_of_recorded_programs_are_calibrated_and_worth_more_than_their_rivals(workload):
    from eval.workload import load

    scores = score(steps(load(workload)[:120], 0.2, 0), PausePredictor(), COST)
    starts = [f for f in scores.forecasts if not f.elapsed_s]
    for probability in (0.5, 0.8, 0.95):
        assert coverage(starts, probability) == pytest.approx(probability, abs=0.05)
    for rival in RULES[1:]:
        assert scores.mean_ratio("ours") < scores.mean_ratio(rival)
