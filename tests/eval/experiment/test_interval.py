"""Figures over seeds, against numbers worked out by hand."""

import numpy as np
import pytest

from eval.experiment.interval import mean_over_seeds, method, ratio_over_seeds


def test_few_seeds_have_a_t_interval():
    found = mean_over_seeds([1.0, 2.0, 3.0])
    # Standard deviation 1, t(2 degrees of freedom) = 4.303: half the width is 4.303 / sqrt(3) = 2.484.
    assert (found.value, found.least, found.most, found.seeds) == (2.0, 1.0, 3.0, 3)
    assert (found.low, found.high) == (pytest.approx(2 - 2.4843, abs=1e-3), pytest.approx(2 + 2.4843, abs=1e-3))


def test_one_seed_has_no_interval_and_says_so():
    found = mean_over_seeds([5.0])
    assert (found.low, found.high) == (None, None)
    assert found.text(lambda v: f"{v:.0f}") == "5"
    assert method(1) == "one seed, no interval"
    assert "t interval over 3" in method(3)
    assert "bootstrap interval over 10" in method(10)


def test_ratios_are_paired_by_seed():
    # Seed 1 is ten times harder, for both alike: every pair has the same ratio, so there is no doubt about it.
    found = ratio_over_seeds({0: 10.0, 1: 100.0, 2: 30.0}, {0: 5.0, 1: 50.0, 2: 15.0, 3: 1.0})
    assert found.value == pytest.approx(2)
    assert (found.low, found.high, found.seeds) == (pytest.approx(2), pytest.approx(2), 3)


def test_a_ratio_is_the_geometric_mean():
    assert ratio_over_seeds({0: 1.0, 1: 4.0}, {0: 1.0, 1: 1.0}).value == pytest.approx(2)
    assert ratio_over_seeds({0: 1.0}, {1: 1.0}) is None


def test_many_seeds_are_bootstrapped_and_the_interval_is_the_same_every_time():
    values = list(np.random.default_rng(3).normal(10, 1, 40))
    found = mean_over_seeds(values)
    assert found == mean_over_seeds(values)
    assert found.low < found.value < found.high
    # About 1.96 standard errors either side.
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.std(values) / np.sqrt(40), rel=0.15)


@pytest.mark.parametrize("seeds", [3, 12])
def test_intervals_cover_the_true_mean_about_as_often_as_they_say(seeds):
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        found = mean_over_seeds(rng.normal(5, 2, seeds))
        covered += found.low <= 5 <= found.high
    assert 0.87 <= covered / 200 <= 0.99


def test_nothing_has_no_mean():
    with pytest.raises(ValueError, match="one per seed"):
        mean_over_seeds([])
