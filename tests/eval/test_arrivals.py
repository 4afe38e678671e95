"""Every policy meets the same arrivals."""

import numpy as np
import pytest

from eval.replay.arrivals import Arrivals


def test_poisson_arrivals_are_seeded():
    arrivals = Arrivals(rate=0.5)
    assert arrivals.times(100, 3) == arrivals.times(100, 3)
    assert arrivals.times(100, 3) != arrivals.times(100, 4)
    assert arrivals.times(100, 3)[:10] == pytest.approx(arrivals.times(10, 3))


def test_poisson_arrivals_have_the_rate():
    times = Arrivals(rate=0.5).times(4000, 0)
    assert times[0] == 0
    assert np.mean(np.diff(times)) == pytest.approx(2, rel=0.05)


def test_burst_and_concurrency_start_at_once():
    assert Arrivals().times(3, 0) == [0, 0, 0]
    assert Arrivals(concurrency=2).times(3, 0) == [0, 0, 0]


@pytest.mark.parametrize(
    "bad", [{"rate": 0}, {"rate": float("inf")}, {"concurrency": 0}, {"rate": 1, "concurrency": 1}]
)
def test_what_cannot_be_is_refused(bad):
    with pytest.raises(ValueError, match="accepted"):
        Arrivals(**bad)
