"""The table of calls in flight, with times and processes that the test makes up."""

import pytest

from mars_sglang.sidecar.calls import Calls
from mars_sglang.stream.events import ToolEnded, ToolFailed, ToolStarted
from mars_sglang.tools.messages import CallQueued, CallStarted
from mars_sglang.tools.process import Process

HERE = "this kernel pid:[1]"


def make_calls(**options) -> Calls:
    return Calls("host-a", where=HERE, **options)


def started(call: str, at_s: float, pid: int | None = None, program: str = "p") -> CallStarted:
    process = None if pid is None else Process(HERE, pid, 7)
    return CallStarted(program=program, call=call, tool="bash", command="pytest", time_s=at_s, process=process)


def ended(call: str, at_s: float, duration_s: float = 0.0, program: str = "p") -> ToolEnded:
    return ToolEnded(program=program, call=call, tool="bash", time_s=at_s, duration_s=duration_s)


def test_a_call_is_told_from_start_to_end():
    calls = make_calls()
    (start,) = calls.take(started("1", 99.9), 100.0)
    assert start == ToolStarted(program="p", call="1", tool="bash", command="pytest", executor="host-a", time_s=99.9)
    assert (calls.active, calls.queued) == (1, 0)
    (end,) = calls.take(ended("1", 104.9, 5.0), 105.0)
    assert isinstance(end, ToolEnded) and end.command == "pytest" and end.executor == "host-a"
    assert (end.duration_s, end.time_s) == (5.0, 104.9)
    assert (calls.active, calls.service_s) == (0, 5.0)


def test_a_call_that_waits_for_a_slot_counts_as_queued_and_its_wait_is_averaged():
    calls = make_calls()
    queued = CallQueued(program="p", call="1", tool="bash", time_s=100.0, process=Process(HERE, 1, 7))
    assert calls.take(queued, 100.0) == []
    assert (calls.active, calls.queued) == (0, 1)
    assert list(calls.states()) == []
    calls.take(started("1", 108.0, pid=1), 108.0)
    assert (calls.active, calls.queued, calls.wait_s) == (1, 0, 8.0)
    calls.take(started("2", 108.0), 108.0)
    assert calls.wait_s == 7.0


def test_a_start_that_is_told_twice_counts_once():
    calls = make_calls()
    assert len(calls.take(started("1", 1.0), 1.0)) == 1
    assert calls.take(started("1", 1.5), 1.5) == []
    assert calls.active == 1


def test_equal_call_ids_of_two_programs_are_two_calls():
    calls = make_calls()
    calls.take(started("call_0", 1.0, program="a"), 1.0)
    calls.take(started("call_0", 1.0, program="b"), 1.0)
    assert calls.active == 2
    calls.take(ended("call_0", 2.0, program="b"), 2.0)
    assert [state.program for state in calls.states()] == ["a"]


def test_an_end_without_a_duration_is_measured_and_one_without_a_start_is_passed_on():
    calls = make_calls()
    calls.take(started("1", 10.0), 10.0)
    (end,) = calls.take(ended("1", 12.5), 12.5)
    assert end.duration_s == 2.5
    (other,) = calls.take(ended("unknown", 13.0, 4.0), 13.0)
    assert other.duration_s == 4.0 and other.tool == "bash"


def test_the_time_of_another_hosts_clock_is_not_believed():
    calls = make_calls()
    (start,) = calls.take(started("1", 5.0), 1000.0)
    assert start.time_s == 1000.0
    (late,) = calls.take(started("2", 940.0, pid=1), 1000.0)
    assert late.time_s == 940.0, "our own clock tells how long a report was on its way"


def test_a_call_whose_process_is_gone_at_two_looks_failed():
    calls = make_calls()
    calls.take(started("1", 10.0, pid=1), 10.0)
    calls.take(started("2", 10.0, pid=2), 10.0)
    calls.take(started("3", 10.0), 10.0)
    assert calls.sweep(lambda process: process.pid == 1, 11.0) == []
    (failed,) = calls.sweep(lambda process: process.pid == 1, 11.5)
    assert isinstance(failed, ToolFailed)
    assert (failed.call, failed.error, failed.duration_s) == ("1", "its process vanished", 1.5)
    assert calls.active == 2


def test_a_last_report_that_is_slower_than_its_process_still_counts():
    calls = make_calls()
    calls.take(started("1", 10.0, pid=1), 10.0)
    calls.sweep(lambda process: True, 11.0)
    (end,) = calls.take(ended("1", 11.1, 1.0), 11.1)
    assert isinstance(end, ToolEnded)
    assert calls.sweep(lambda process: True, 11.5) == []


def test_a_call_that_vanished_while_it_waited_is_only_forgotten():
    calls = make_calls()
    calls.take(CallQueued(program="p", call="1", tool="t", process=Process(HERE, 1, 7)), 1.0)
    calls.sweep(lambda process: True, 2.0)
    assert calls.sweep(lambda process: True, 3.0) == [] and calls.queued == 0


def test_a_call_that_nobody_can_watch_is_not_followed_for_ever():
    calls = make_calls()
    calls.take(started("1", 0.0), 0.0)
    calls.take(CallStarted(program="p", call="2", tool="t", process=Process("another kernel", 1, 7)), 0.0)
    assert calls.sweep(lambda process: True, 3600.0) == []
    assert {event.call for event in calls.sweep(lambda process: True, 7 * 3600.0)} == {"1", "2"}


def test_the_table_is_bounded_and_what_falls_out_is_told():
    calls = make_calls(limit=3)
    events = [event for n in range(5) for event in calls.take(started(str(n), 1.0), 1.0)]
    assert [event.call for event in events if isinstance(event, ToolFailed)] == ["0", "1"]
    assert calls.active == 3


def test_one_sweep_looks_at_a_bounded_number_of_processes_and_the_next_goes_on():
    calls = make_calls()
    for pid in range(250):
        calls.take(started(str(pid), 1.0, pid=pid), 1.0)
    looks: list[int] = []
    for _ in range(3):
        before = len(looks)
        calls.sweep(lambda process: bool(looks.append(process.pid)), 2.0)
        assert len(looks) - before <= 100
    assert set(looks) == set(range(250))


def test_a_sidecar_after_a_killed_one_takes_its_calls_over():
    calls = make_calls()
    calls.take(started("1", 10.0, pid=1), 10.0)
    calls.take(CallQueued(program="p", call="2", tool="t"), 10.0)
    after = make_calls()
    after.load(calls.save())
    assert (after.active, after.queued) == (1, 1)
    (state,) = after.states()
    assert (state.call, state.started_s, state.executor) == ("1", 10.0, "host-a")


def test_calls_of_another_start_of_the_host_are_not_taken_over():
    calls = make_calls()
    calls.take(started("1", 10.0, pid=1), 10.0)
    after = Calls("host-a", where="rebooted")
    after.load(calls.save())
    assert after.active == 0


@pytest.mark.parametrize("saved", [b"", b"\xc1", b"\x93\x01\x02\x03"])
def test_a_damaged_file_of_calls_is_a_value_error(saved):
    with pytest.raises(ValueError):
        make_calls().load(saved)
