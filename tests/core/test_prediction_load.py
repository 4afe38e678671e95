"""What the load of an executor does to forecasts."""

import heapq

import numpy as np
import pytest

from mars_sglang.core.pauses import LoadAt, PauseKey
from mars_sglang.core.prediction import PausePredictor

SHELL = PauseKey("shell")
SLOTS = 4
PROBABILITIES = (0.5, 0.8, 0.95)


def taught(*seconds: float, load: LoadAt | None = None) -> PausePredictor:
    predictor = PausePredictor()
    for value in seconds:
        predictor.observe(SHELL, value, load or LoadAt())
    return predictor


def test_nothing_known_of_an_executor_is_no_load():
    assert LoadAt.of_executor() == LoadAt()


def test_a_free_slot_means_no_wait():
    assert LoadAt.of_executor(queued=0, active=3, slots=4, service_s=2.0).wait_s == 0


def test_a_full_executor_has_to_end_one_call_more_than_wait():
    load = LoadAt.of_executor(queued=3, active=4, slots=4, service_s=2.0)
    assert (load.completions, load.wait_s) == (4, 2.0)


@pytest.mark.parametrize(
    ("reported", "slowdown"),
    [
        ({"cores": 4.0, "run_queue": 12.0}, 3.0),
        ({"cores": 4.0, "run_queue": 2.0}, 1.0),
        ({"cores": 4.0, "run_queue": 8.0, "cpu_pressure": 0.9}, 2.0),
        ({"cpu_pressure": 0.5}, 2.0),
        ({"throttled": 0.75}, 4.0),
        ({"cpu_pressure": 1.0}, 20.0),
    ],
)
def test_lost_time_slows_a_call_down(reported, slowdown):
    assert LoadAt.of_executor(**reported).slowdown == pytest.approx(slowdown)


@pytest.mark.parametrize("fields", [{"wait_s": -1.0}, {"slowdown": 0.5}, {"completions": -1}])
def test_an_impossible_load_is_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        LoadAt(**fields)


def test_waits_keep_the_mean_and_spread_less_the_more_calls_are_ahead():
    few, many = (np.array(LoadAt(10.0, 1.0, completions).waits_s()) for completions in (1, 50))
    assert few.mean() == pytest.approx(10) and many.mean() == pytest.approx(10)
    assert few.std() == pytest.approx(10 * 0.9, rel=0.15)
    assert many.std() == pytest.approx(10 / 50**0.5, rel=0.15)


def test_a_slow_host_stretches_a_forecast_and_a_wait_shifts_it():
    predictor = taught(*[1.0] * 200)
    assert predictor.predict(SHELL, load=LoadAt(slowdown=4.0)).quantile(0.5) == pytest.approx(4, rel=0.1)
    assert predictor.predict(SHELL, load=LoadAt(wait_s=10.0)).quantile(0.5) == pytest.approx(11, rel=0.1)
    assert predictor.predict(SHELL, load=LoadAt(wait_s=10.0, slowdown=4.0)).survival(10.0) > 0.95


def test_what_is_learned_under_load_is_the_pause_without_it():
    predictor = taught(*[14.0] * 200, load=LoadAt(wait_s=10.0, slowdown=4.0))
    assert predictor.predict(SHELL).quantile(0.5) == pytest.approx(1, rel=0.1)


def test_what_an_uncertain_wait_explains_is_not_learned_as_the_tools_own_time():
    predictor = taught(*[1.0] * 200)
    before = predictor.predict(SHELL).quantile(0.5)
    for value in np.random.default_rng(0).gamma(5, 4.0, 500) + 1.0:
        predictor.observe(SHELL, float(value), LoadAt(wait_s=20.0, completions=5))
    assert predictor.predict(SHELL).quantile(0.5) < 3 * before


def executor(seed: int, calls: int):
    """An executor of four slots whose load comes and goes: ``(load at the call's start, its pause)`` in turn.

    A host with a busy neighbour runs everything three times slower.
    """
    rng = np.random.default_rng(seed)
    now = 0.0
    free = [0.0] * SLOTS
    starts: list[float] = []
    for index in range(calls):
        busy_phase, neighbour = (index // 150) % 2, (index // 400) % 2
        now += rng.exponential(0.35 if busy_phase else 1.5) * (3.0 if neighbour else 1.0)
        slowdown = 3.0 if neighbour else 1.0
        starts = [start for start in starts if start > now]
        active = sum(at > now for at in free)
        load = LoadAt.of_executor(
            queued=len(starts),
            active=active,
            slots=SLOTS,
            service_s=1.65 * slowdown,
            cores=4.0,
            run_queue=4.0 * slowdown,
        )
        start = max(now, heapq.heappop(free))
        end = start + rng.lognormal(0.0, 1.0) * slowdown
        heapq.heappush(free, end)
        if start > now:
            starts.append(start)
        yield load, end - now


def worst_error(with_load: bool) -> float:
    """Largest miss, in share, of the three quantiles among calls that found the executor free, full, or slow."""
    predictor = PausePredictor()
    hits: dict = {}
    for index, (load, seconds) in enumerate(executor(seed=3, calls=6000)):
        used = load if with_load else LoadAt()
        if index > 500:
            kind = (load.wait_s > 0, load.slowdown > 1)
            known = predictor.predict(SHELL, load=used)
            for p in PROBABILITIES:
                hits.setdefault((kind, p), []).append(seconds <= known.quantile(p))
        predictor.observe(SHELL, seconds, used)
    return max(abs(np.mean(hit) - p) for (_, p), hit in hits.items() if len(hit) >= 100)


def test_forecasts_that_know_the_load_are_calibrated_where_those_that_do_not_are_far_off():
    assert worst_error(with_load=True) < 0.12
    assert worst_error(with_load=False) > 0.25
