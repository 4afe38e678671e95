"""A fixed window over programs, by hand."""

import pytest

from mars_sglang.core.admission.window import WindowAdmission
from mars_sglang.core.policy import admission_policy
from mars_sglang.core.views import PoolView
from tests.core.admission.programs import in_tool, new, returned, working

POOL = PoolView(1000, 0)
#: By when a silence since the first seconds has been too long by any measure.
LATE_S = 100_000.0


def test_places_that_are_free_go_to_who_came_first_whatever_they_hold():
    # A window of 3 with one program at work and one inside a tool: 3 - 2 = 1 place, although 5000 of 1000 are held.
    inside = [working("a", 4000), in_tool("b", 1000)]
    waiting = [new("e", 1, arrived_s=3.0), new("d", 9000, arrived_s=2.0), returned("c", 2, arrived_s=4.0)]
    decision = WindowAdmission(3).decide(inside, waiting, POOL, 10.0)
    assert (decision.pause, decision.admit) == ((), ("d",))


def test_nobody_is_paused_for_want_of_memory():
    inside = [in_tool("a", 4000), in_tool("b", 4000)]
    assert WindowAdmission(2).decide(inside, [new("c", 1)], POOL, 0.0) == WindowAdmission(2).decide(inside, [], POOL, 0)


def test_the_dormant_make_room_for_those_who_wait_and_for_no_more():
    # 3 places, all taken; two wait: two of the three silent ones go, the longest silent first.
    inside = [in_tool(name, 1, idle_since_s=since_s) for name, since_s in (("a", 2.0), ("b", 0.0), ("c", 1.0))]
    decision = WindowAdmission(3).decide(inside, [new("x", 1, 1.0), new("y", 1, 2.0)], POOL, LATE_S)
    assert (decision.pause, decision.admit) == (("b", "c"), ("x", "y"))
    assert WindowAdmission(3).decide(inside, [], POOL, LATE_S).pause == ()


def test_its_name_makes_the_same_policy_again():
    assert WindowAdmission.from_text("12").name == "window:12"
    assert admission_policy("window:12").name == "window:12"


def test_a_window_nobody_fits_into_is_an_error():
    with pytest.raises(ValueError, match="a window of 0 programs; accepted: 1 or more"):
        WindowAdmission(0)
