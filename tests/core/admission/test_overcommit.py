"""The weight of programs inside tools, by hand."""

import pytest

from mars_sglang.core.admission.overcommit import AGAIN_SHARE, LEAST, Overcommit


def test_it_falls_while_something_is_held_and_rises_while_nothing_is():
    weight = Overcommit()
    weight.observe(True, 100.0)
    weight.observe(True, 150.0)
    # 50 s x .002.
    assert weight.weight == pytest.approx(0.9)
    weight.observe(True, 10_000.0)
    assert weight.weight == LEAST
    weight.observe(False, 10_050.0)
    assert weight.weight == pytest.approx(0.8)
    weight.observe(False, 20_000.0)
    assert weight.weight == 1.0


def test_it_rests_where_the_share_of_time_goes_into_computing_again():
    weight = Overcommit()
    for second in range(100):
        weight.observe(True, float(second))
    before = weight.weight
    for second in range(100, 200):
        weight.observe(True, float(second))
        weight.observe_again(AGAIN_SHARE)
    assert weight.weight == pytest.approx(before)
    weight.observe_again(1000.0)
    assert weight.weight == 1.0


def test_a_clock_that_steps_back_changes_nothing():
    weight = Overcommit()
    weight.observe(True, 100.0)
    weight.observe(True, 50.0)
    assert weight.weight == 1.0
