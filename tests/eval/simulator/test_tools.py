import pytest

from eval.simulator.events import Agenda
from eval.simulator.tools import ToolSlots


def test_calls_at_one_time_are_made_in_the_order_of_their_entry():
    agenda, made = Agenda(), []
    for time_s, name in ((2.0, "c"), (1.0, "a"), (1.0, "b")):
        agenda.at(time_s, lambda name=name: made.append(name))
    agenda.run_due(1.0)
    assert (made, agenda.next_s) == (["a", "b"], 2.0)


def test_tools_wait_for_a_slot_first_come_first_served():
    agenda, ended = Agenda(), []
    tools = ToolSlots(1, agenda)
    for name, seconds in (("a", 5.0), ("b", 1.0), ("c", 2.0)):
        tools.run(seconds, lambda waited_s, name=name: ended.append((name, agenda.now, waited_s)))
    assert (tools.view().active, tools.view().queued) == (1, 2)
    agenda.run_due(100.0)
    assert ended == [("a", 5.0, 0.0), ("b", 6.0, 5.0), ("c", 8.0, 6.0)]
    assert tools.busy_s == 8.0
    assert (tools.view().active, tools.view().queued) == (0, 0)


def test_without_a_limit_all_run_at_once():
    agenda, ended = Agenda(), []
    tools = ToolSlots(None, agenda)
    for seconds in (3.0, 1.0):
        tools.run(seconds, ended.append)
    agenda.run_due(3.0)
    assert ended == [0.0, 0.0] and tools.view().slots == 0


def test_no_slot_at_all_is_refused():
    with pytest.raises(ValueError, match="tool_slots: 0"):
        ToolSlots(0, Agenda())
