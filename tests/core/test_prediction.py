"""Forecasts worked out by hand, and the laws of any."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mars_sglang.core.pace import MAX_NAME, PACE_PRIOR
from mars_sglang.core.pauses import BUCKETS, EDGES_S, PauseForecast, PauseKey, bucket_of
from mars_sglang.core.prediction import HALF_LIFE, SHRINKAGE, PausePredictor, PredictionStateError

SHELL = PauseKey("shell")
PYTEST = PauseKey("shell", "pytest")
LS = PauseKey("shell", "ls")

times = st.floats(0, 1e5)
names = st.sampled_from([None, "a", "b", "c"])
pauses = st.lists(st.tuples(st.sampled_from(["shell", "read", "human"]), names, names, times), max_size=40)
looks = st.lists(st.tuples(st.sampled_from(["shell", "read"]), names, names, times), min_size=1, max_size=3)


def taught(key: PauseKey, *seconds: float, predictor: PausePredictor | None = None) -> PausePredictor:
    predictor = predictor or PausePredictor()
    for value in seconds:
        predictor.observe(key, value)
    return predictor


def taught_all(told) -> PausePredictor:
    predictor = PausePredictor()
    for tool, command, program, seconds in told:
        predictor.observe(PauseKey(tool, command, program), seconds)
    return predictor


def forecast(survival: dict[float, float], elapsed_s: float = 0.0) -> PauseForecast:
    """Steps down to the given survival in the bucket that ends after each time."""
    at_edges = np.ones(BUCKETS + 1)
    for seconds, share in survival.items():
        at_edges[bucket_of(seconds) + 1 :] = share
    return PauseForecast(elapsed_s, "*", at_edges)


def test_a_bucket_is_open_below_and_closed_above():
    assert bucket_of(0.0) == 0
    assert bucket_of(float(EDGES_S[5])) == 4
    assert bucket_of(float(np.nextafter(EDGES_S[5], 1e9))) == 5
    assert bucket_of(1e9) == BUCKETS


@pytest.mark.parametrize("seconds", [0.05, 0.1, 1, 2, 4, 5, 10, 20, 100])
def test_round_times_are_far_from_the_edges_of_their_bucket(seconds):
    bucket = bucket_of(seconds)
    low, high = EDGES_S[bucket], EDGES_S[bucket + 1]
    assert 0.2 < (seconds - low) / (high - low) < 0.8


def test_before_anything_is_learned_a_forecast_is_that_of_published_tool_calls():
    known = PausePredictor().predict(SHELL)
    assert known.key == "prior"
    assert known.quantile(0.5) == pytest.approx(0.3, rel=0.05)
    assert known.quantile(0.9) == pytest.approx(13.6, rel=0.05)
    assert known.survival(60) == pytest.approx(0.049, abs=0.005)


def test_survival_is_conditional_on_what_has_passed():
    # Half end at about 1 s, half of the rest at about 10 s, the rest at about 100 s.
    steps = {1.0: 0.5, 10.0: 0.25, 100.0: 0.0001}
    assert forecast(steps).survival(2) == pytest.approx(0.5)
    assert forecast(steps, elapsed_s=2).survival(2) == 1
    assert forecast(steps, elapsed_s=2).survival(20) == pytest.approx(0.5)
    assert forecast(steps, elapsed_s=2).probability_within(18) == pytest.approx(0.5)
    assert forecast(steps, elapsed_s=20).quantile(0.5) == pytest.approx(100, rel=0.1)


def test_a_share_that_never_ends_has_no_quantile():
    never = forecast({1.0: 0.25})
    assert never.quantile(0.7) == pytest.approx(1, rel=0.1)
    assert never.quantile(0.8) == math.inf


def test_held_time_is_the_area_under_the_survival():
    # Up to the bucket of 10 s nothing ends; half end in it, on average at its middle.
    bucket = bucket_of(10.0)
    low, high = EDGES_S[bucket], EDGES_S[bucket + 1]
    assert forecast({10.0: 0.5}).expected_held_s(float(low)) == pytest.approx(low)
    assert forecast({10.0: 0.5}).expected_held_s(float(high)) == pytest.approx(low + 0.75 * (high - low))
    assert forecast({10.0: 0.5}).expected_held_s(20) == pytest.approx(low + 0.75 * (high - low) + 0.5 * (20 - high))
    assert forecast({10.0: 0.5}, elapsed_s=5).expected_held_s(8) == pytest.approx(3)


def test_a_context_is_kept_just_as_long_as_a_return_is_worth_it():
    # Half return by 1 s, the rest at 100 s. Waiting for the second half costs 99 s for a sure return.
    steps = {1.0: 0.5, 100.0: 0.0001}
    after_first, after_all = float(EDGES_S[bucket_of(1.0) + 1]), float(EDGES_S[bucket_of(100.0) + 1])
    assert forecast(steps).deadline_s(1.0) == 0
    assert forecast(steps).deadline_s(50.0) == after_first
    assert forecast(steps).deadline_s(500.0) == after_all
    assert forecast(steps, elapsed_s=2.0).deadline_s(50.0) == 2.0
    assert forecast(steps, elapsed_s=60.0).deadline_s(50.0) == after_all


def test_a_key_falls_back_by_its_number_of_pauses():
    # Nothing else is known, so a single bucket's hazard is the mean of 1 and the coarser one, weighted n to K.
    predictor = taught(PauseKey("read"), *[100.0] * 1000)
    coarse = predictor.predict(PauseKey("other")).survival(2.0)
    for value in [0.05] * 4:
        predictor.observe(SHELL, value)
    bucket = bucket_of(0.05)
    survival = predictor.predict(SHELL).at_edges
    fallback = predictor.predict(PauseKey("other")).at_edges
    hazard, coarser = (1 - at[bucket + 1] / at[bucket] for at in (survival, fallback))
    assert hazard == pytest.approx((4 + SHRINKAGE * coarser) / (4 + SHRINKAGE), rel=0.01)
    assert coarse > 0.9


def test_a_command_speaks_for_itself_where_it_has_pauses_and_its_tool_elsewhere():
    predictor = taught(LS, *[0.05] * 200)
    taught(PYTEST, *[30.0] * 200, predictor=predictor)
    assert predictor.predict(LS).key == "shell ls"
    assert predictor.predict(LS).quantile(0.8) < 0.1
    assert predictor.predict(PYTEST).quantile(0.5) == pytest.approx(30, rel=0.1)
    # No ls ever took 10 s, so what is said of one that does is what is known of the shell.
    late = predictor.predict(LS, elapsed_s=10.0)
    assert late.key == "shell"
    assert late.quantile(0.5) == pytest.approx(30, rel=0.15)
    assert predictor.predict(PauseKey("shell", "unseen")).key == "shell"
    assert predictor.predict(PauseKey("unseen")).key == "*"


def test_what_was_known_is_half_forgotten_after_the_half_life():
    before = taught(SHELL, *[1.0] * 20_000)
    taught(SHELL, *[10.0] * int(HALF_LIFE), predictor=before)
    assert before.predict(SHELL).survival(2.0) == pytest.approx(0.5, abs=0.01)


def test_many_short_pauses_do_not_make_it_forget_how_long_ones_end():
    predictor = taught(SHELL, *[100.0] * 50)
    taught(SHELL, *[0.1] * 20_000, predictor=predictor)
    assert predictor.predict(SHELL, elapsed_s=50.0).quantile(0.5) == pytest.approx(100, rel=0.15)


def test_pauses_that_go_on_are_not_taken_for_short_ones():
    told, untold = PausePredictor(), PausePredictor()
    for _ in range(100):
        for predictor in (told, untold):
            predictor.observe(SHELL, 1.0)
        told.still_out(SHELL, 5.0)
        told.still_out(SHELL, 60.0, since_s=5.0)
    assert untold.predict(SHELL).survival(5.0) < 0.1
    assert told.predict(SHELL).survival(5.0) == pytest.approx(0.5, abs=0.05)


def test_a_pause_told_of_on_the_way_counts_as_one_told_of_at_its_end():
    once = taught(SHELL, 40.0)
    twice = PausePredictor()
    twice.still_out(SHELL, 2.0)
    twice.still_out(SHELL, 30.0, since_s=2.0)
    twice.observe(SHELL, 40.0, since_s=30.0)
    assert twice.to_state() == once.to_state()


def test_programs_that_never_come_back_leave_a_share_that_never_returns():
    predictor = PausePredictor()
    for _ in range(300):
        predictor.observe(SHELL, 1.0)
        predictor.still_out(SHELL, math.inf)
    assert predictor.predict(SHELL).quantile(0.4) < 2
    assert predictor.predict(SHELL).quantile(0.6) == math.inf
    assert not predictor.predict(SHELL).dormant(600.0, below=0.1)
    assert predictor.predict(SHELL, elapsed_s=5.0).dormant(600.0, below=0.1)


def test_a_slow_program_is_expected_later_than_a_new_one_and_a_fast_one_sooner():
    rng = np.random.default_rng(0)
    predictor = taught(SHELL, *rng.exponential(10.0, 1000).tolist())
    for _ in range(20):
        predictor.observe(SHELL._replace(program="slow"), 40.0)
        predictor.observe(SHELL._replace(program="fast"), 2.0)
    new, slow, fast = (predictor.predict(SHELL._replace(program=p)).quantile(0.5) for p in ("new", "slow", "fast"))
    assert fast < 0.7 * new < new < 1.3 * new < slow
    assert predictor.predict(SHELL).quantile(0.5) == new


def test_the_pace_of_one_tool_says_nothing_of_another():
    predictor = taught(SHELL, *[1.0] * 100)
    taught(PauseKey("human"), *[100.0] * 100, predictor=predictor)
    before = predictor.predict(PauseKey("human", None, "p")).quantile(0.5)
    taught(SHELL._replace(program="p"), *[0.01] * 10, predictor=predictor)
    assert predictor.predict(PauseKey("human", None, "p")).quantile(0.5) == pytest.approx(before, rel=0.02)


def test_a_program_like_all_others_has_their_pace():
    rng = np.random.default_rng(1)
    predictor = taught(SHELL, *rng.exponential(10.0, 5000).tolist())
    ratios = []
    for index in range(200):
        mine = SHELL._replace(program=str(index))
        taught(mine, *rng.exponential(10.0, 10).tolist(), predictor=predictor)
        ratios.append(predictor.predict(mine).quantile(0.5) / predictor.predict(SHELL).quantile(0.5))
    assert np.median(ratios) == pytest.approx(1.0, abs=2 / PACE_PRIOR)


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, n: rng.lognormal(0.0, 1.5, n),
        lambda rng, n: np.where(rng.random(n) < 0.7, rng.uniform(0.1, 0.3, n), rng.uniform(30.0, 90.0, n)),
        lambda rng, n: rng.pareto(0.8, n) * 0.5,
    ],
    ids=["log-normal", "two humps", "heavy tail"],
)
def test_forecasts_of_a_steady_tool_are_calibrated(draw):
    seconds = draw(np.random.default_rng(2), 6000)
    predictor = PausePredictor()
    hits = {(p, e): [] for p in (0.5, 0.8, 0.95) for e in (0.0, 10.0)}
    for index, value in enumerate(seconds.tolist()):
        for elapsed in (0.0, 10.0):
            if index >= 500 and value > elapsed:
                known = predictor.predict(PYTEST, elapsed)
                for p in (0.5, 0.8, 0.95):
                    hits[p, elapsed].append(value <= known.quantile(p))
        predictor.observe(PYTEST, value)
    for (p, elapsed), hit in hits.items():
        assert np.mean(hit) == pytest.approx(p, abs=0.03 if not elapsed else 0.06), (p, elapsed)


@given(pauses, looks)
def test_survival_never_rises_and_its_inverse_is_the_quantile(told, asked):
    predictor = taught_all(told)
    for tool, command, program, elapsed_s in asked:
        known = predictor.predict(PauseKey(tool, command, program), elapsed_s)
        points = [elapsed_s + x for x in (0.0, 0.001, 0.1, 1.0, 10.0, 1e3, 1e7)]
        values = [known.survival(x) for x in points]
        assert values[0] == 1.0
        assert all(0 < later <= sooner for sooner, later in itertools.pairwise(values))
        assert known.at_edges[-1] > 0
        last = elapsed_s
        for p in (0.0, 0.1, 0.5, 0.8, 0.95):
            quantile = known.quantile(p)
            assert quantile >= last
            last = quantile
            if math.isfinite(quantile):
                assert known.survival(quantile) == pytest.approx(1 - p, abs=1e-6)
        assert elapsed_s <= known.deadline_s(30.0)
        assert known.expected_held_s(elapsed_s + 10.0) <= 10.0 + 1e-6


@given(pauses, times, st.floats(0.01, 1e4))
def test_no_other_deadline_costs_less_than_the_chosen_one(told, elapsed_s, worth_s):
    known = taught_all(told).predict(SHELL, elapsed_s)

    def loss(deadline_s: float) -> float:
        return known.expected_held_s(deadline_s) + worth_s * known.survival(deadline_s)

    best = loss(known.deadline_s(worth_s))
    for deadline_s in [elapsed_s, *EDGES_S[elapsed_s < EDGES_S].tolist()]:
        assert best <= loss(deadline_s) * (1 + 1e-9) + 1e-9


@given(pauses, pauses)
def test_a_saved_and_loaded_predictor_goes_on_as_the_one_that_was_not(before, after):
    first = taught_all(before)
    state = json.loads(json.dumps(first.to_state()))
    second = PausePredictor.from_state(state)
    assert second.to_state() == first.to_state()
    for tool, command, program, seconds in after:
        key = PauseKey(tool, command, program)
        assert first.predict(key).quantile(0.8) == second.predict(key).quantile(0.8)
        first.observe(key, seconds)
        second.observe(key, seconds)
    assert second.to_state() == first.to_state()


@settings(max_examples=20)
@given(pauses)
def test_asking_changes_nothing(told):
    predictor = taught_all(told)
    before = predictor.to_state()
    for tool, command, program, seconds in told:
        predictor.predict(PauseKey(tool, command, program + "x" if program else None), seconds)
    assert predictor.to_state() == before


def test_any_number_of_names_of_any_length_is_bounded():
    predictor = PausePredictor(max_keys=50, max_paces=30)
    for index in range(20_000):
        predictor.observe(PauseKey(f"t{index}" * 50, f"c{index}" * 50, f"p{index}" * 500), 1.0)
    assert len(predictor) <= 50
    assert predictor.paces <= 30
    names = [part for name, _ in predictor.to_state()["keys"] for part in name]
    assert max(map(len, names)) <= MAX_NAME
    assert predictor.predict(PauseKey("new")).quantile(0.5) == pytest.approx(1, rel=0.1)


def test_the_keys_not_seen_for_longest_are_forgotten():
    predictor = PausePredictor(max_keys=3)
    for tool in ("a", "b", "c", "a", "d"):
        predictor.observe(PauseKey(tool), 1.0)
    assert [name for name, _ in predictor.to_state()["keys"]] == [[], ["c"], ["a"], ["d"]]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: [], "list"),
        (lambda s: s | {"version": 99}, "state.version is 99"),
        (lambda s: s | {"buckets": 3}, "state.buckets is 3"),
        (lambda s: {k: v for k, v in s.items() if k != "keys"}, "keys"),
        (lambda s: s | {"keys": [[["shell"], [[1.0], [1.0]]]]}, "shell"),
        (lambda s: s | {"keys": [[["shell"], [[-1.0] * BUCKETS] * 2]]}, "shell"),
        (lambda s: s | {"keys": [[["a", "b", "c"], [[0.0] * BUCKETS] * 2]]}, "no tool"),
        (lambda s: s | {"paces": [["p", "shell", -1.0, 0.0]]}, "p"),
        (lambda s: s | {"paces": [["p", 1.0, 0.0]]}, "state"),
    ],
)
def test_a_bad_state_is_refused_with_what_is_wrong(change, named):
    with pytest.raises(PredictionStateError, match=named):
        PausePredictor.from_state(change(taught(SHELL, 1.0).to_state()))


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_a_pause_of_no_length_in_seconds_is_refused(seconds):
    predictor = PausePredictor()
    with pytest.raises(ValueError, match="seconds"):
        predictor.observe(SHELL, seconds)
    with pytest.raises(ValueError, match="elapsed_s"):
        predictor.predict(SHELL, elapsed_s=seconds)
    assert predictor.to_state() == PausePredictor().to_state()


def test_a_probability_of_one_has_no_quantile():
    with pytest.raises(ValueError, match="probability"):
        forecast({}).quantile(1.0)
