import pytest

from mars_sglang.core.policies.pin_table import PinTable
from mars_sglang.core.views import ContextState
from tests.core.policies.engines import context


@pytest.fixture
def pins():
    table = PinTable()
    table.pin("a", until_s=10.0)
    return table


def test_a_pin_ends_at_its_deadline(pins):
    assert pins.holds("a", False, 9.9)
    assert not pins.holds("a", False, 10.0)


def test_a_pin_outlives_its_deadline_while_a_turn_that_came_in_time_waits(pins):
    pins.came_back("a", 9.0)
    assert pins.holds("a", True, 500.0)


def test_a_turn_that_comes_too_late_brings_no_pin_back(pins):
    pins.came_back("a", 10.0)
    assert not pins.holds("a", True, 10.0)
    assert pins.until_s("a") is None


def test_a_turn_that_was_aborted_while_it_waited_leaves_no_pin_behind(pins):
    pins.came_back("a", 9.0)
    assert not pins.holds("a", False, 10.0)


def test_a_second_turn_that_comes_late_takes_nothing_from_the_first_that_came_in_time(pins):
    pins.came_back("a", 9.0)
    pins.came_back("a", 11.0)
    assert pins.holds("a", True, 11.0)


def test_admission_overrules_a_pin_by_pausing_the_program(pins):
    assert pins.holds_context(context("a", state=ContextState.TOOL), 5.0)
    assert not pins.holds_context(context("a", state=ContextState.PAUSED), 5.0)


def test_nothing_is_pinned_for_nobody(pins):
    assert not pins.holds(None, True, 0.0)
    pins.drop("a")
    assert not pins.holds("a", True, 0.0)
