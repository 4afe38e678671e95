import pytest

from mars_sglang.emulation.pacing import ErrorSketch, StepPacer


class FakeTime:
    """A clock that passes only by sleeping, and a little at each look so that spinning ends."""

    LOOK_S = 1e-6

    def __init__(self) -> None:
        self.now_s = 100.0

    def clock(self) -> float:
        self.now_s += self.LOOK_S
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s


@pytest.fixture
def time():
    return FakeTime()


@pytest.fixture
def pacer(time):
    return StepPacer(time.clock, time.sleep)


def ends(pacer, time, steps) -> list[float]:
    """When each (host time before it, step) returned, from now."""
    start_s, result = time.now_s, []
    for host_s, step_s in steps:
        time.sleep(host_s)
        pacer.wait(step_s, pacer.decode)
        result.append(time.now_s - start_s)
    return result


def test_host_work_between_busy_steps_is_hidden(pacer, time):
    assert ends(pacer, time, [(0, 0.020), (0.005, 0.020), (0.019, 0.020)]) == pytest.approx(
        [0.020, 0.040, 0.060], abs=1e-4
    )


def test_nothing_is_hidden_after_an_idle_period(pacer, time):
    ends(pacer, time, [(0, 0.020)])
    pacer.idle()
    assert ends(pacer, time, [(0.005, 0.020)]) == pytest.approx([0.025], abs=1e-4)


def test_late_host_makes_up_for_at_most_the_late_step(pacer, time):
    ends(pacer, time, [(0, 0.020)])
    # 10 ms late, made up in the next step; 80 ms late, of which one step's 20 ms are made up.
    assert ends(pacer, time, [(0.030, 0.020), (0.001, 0.020)]) == pytest.approx([0.030, 0.040], abs=1e-4)
    assert ends(pacer, time, [(0.100, 0.020), (0.001, 0.020), (0.001, 0.020)]) == pytest.approx(
        [0.100, 0.101, 0.120], abs=2e-4
    )


def test_report_counts_kinds_apart_and_says_when_it_cannot_be_trusted(pacer, time):
    pacer.wait(0.1, pacer.prefill)
    ends(pacer, time, [(0.001, 0.010)] * 10)
    report = pacer.report()
    assert report["ok"] and "problem" not in report
    assert (report["steps"], report["prefill"]["steps"], report["decode"]["steps"]) == (11, 1, 10)
    assert report["decode"]["error_median"] < 0.001
    assert report["decode"]["host_ms_per_step"] == pytest.approx(1.0, rel=0.01)
    assert report["intended_s"] == pytest.approx(report["real_s"], rel=0.01)

    pacer.reset()
    ends(pacer, time, [(0.015, 0.010)] * 10)
    report = pacer.report()
    assert not report["ok"] and "% off what the emulated GPU takes" in report["problem"]
    assert report["behind_share"] == 1.0
    assert report["decode"]["error_p90"] == pytest.approx(0.5, rel=0.05)


def test_report_before_the_first_step_is_empty(pacer):
    report = pacer.report()
    assert report["ok"] and report["steps"] == 0 and report["decode"]["error_median"] is None


def test_quantiles_are_close_in_bounded_memory():
    sketch = ErrorSketch()
    for number in range(1, 1001):
        sketch.add(number / 1000)
    assert sketch.quantile(0.5) == pytest.approx(0.5, rel=0.05)
    assert sketch.quantile(0.9) == pytest.approx(0.9, rel=0.05)
    sketch.add(1e9)
    sketch.add(0.0)
    assert sketch.count == 1002
