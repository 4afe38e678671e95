"""Pressure of the hosts of tools, by hand: 10 slots, and a GPU that prefills 10,000 tokens a second."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars_sglang.core.admission.tool_pressure import ToolPressure, next_prefill_tokens
from mars_sglang.core.program import HUMAN
from mars_sglang.core.views import ProgramHistory, ToolsView
from tests.core.admission.programs import new, returned

HEALTHY = ToolsView(10, 5, 0, 0.0, cpu_pressure=0.1, memory_pressure=0.0, memory_used_share=0.5)
#: Two tools per slot; a call waits for 3 s.
QUEUE = ToolsView(10, 10, 10, 3.0)
SHORT_OF_MEMORY = HEALTHY._replace(memory_pressure=0.2, memory_used_share=0.95)
TOKEN_S = 1e-4


def seen(*views: ToolsView | None) -> ToolPressure:
    pressure = ToolPressure()
    for view in views:
        pressure.observe(view)
    return pressure


def history(pauses: int, paused_s: float, tools: tuple[tuple[str, int], ...] = (("bash", 3),)) -> ProgramHistory:
    return ProgramHistory(3, 300, 900, 10.0, pauses, paused_s, tools)


@pytest.mark.parametrize(
    ("high", "between", "low"),
    [
        (ToolsView(10, 10, 10, 0.0), ToolsView(10, 10, 1, 0.0), ToolsView(10, 10, 0, 0.0)),
        (ToolsView(10, 4, 1, 5.0), ToolsView(10, 4, 1, 2.1), ToolsView(10, 4, 1, 2.0)),
        (HEALTHY._replace(cpu_pressure=0.5), HEALTHY._replace(cpu_pressure=0.26), HEALTHY._replace(cpu_pressure=0.25)),
    ],
    ids=["tools per slot", "wait", "cpu pressure"],
)
def test_overload_begins_at_the_high_mark_and_ends_at_the_low_one(high, between, low):
    states = []
    pressure = ToolPressure()
    for view in (HEALTHY, between, high, between, low, between):
        pressure.observe(view)
        states.append(pressure.overloaded)
    assert states == [False, False, True, True, False, False]
    assert not pressure.out_of_memory_near


def test_overload_ends_only_when_every_reading_is_low():
    pressure = seen(HEALTHY._replace(cpu_pressure=0.9), HEALTHY._replace(active=12))
    assert pressure.overloaded  # 1.2 per slot would not have begun it
    pressure.observe(HEALTHY)
    assert not pressure.overloaded


def test_a_wait_that_was_measured_before_the_queue_emptied_is_no_wait():
    assert not seen(ToolsView(10, 4, 0, 60.0)).overloaded
    assert not seen(ToolsView(10, 4, 1, 60.0), ToolsView(10, 4, 0, 60.0)).overloaded


def test_memory_near_the_limit_needs_tasks_that_wait_for_it_where_that_is_known():
    def near(used, stalls, was=False):
        before = SHORT_OF_MEMORY if was else HEALTHY
        return seen(before, HEALTHY._replace(memory_used_share=used, memory_pressure=stalls)).out_of_memory_near

    assert near(0.85, 0.10) and near(0.85, None)
    assert not near(0.84, 0.9) and not near(0.84, None)
    assert not near(1.0, 0.09)  # page cache
    assert near(0.76, 0.06, was=True) and near(0.76, None, was=True)
    assert not near(0.75, 0.9, was=True) and not near(0.9, 0.05, was=True)
    assert not near(None, 0.9, was=True)
    assert not seen(SHORT_OF_MEMORY).overloaded


@pytest.mark.parametrize("unknown", [None, ToolsView(0, 0, 0, 0.0, hosts=2, stale=2)], ids=["no host", "all stale"])
def test_what_is_unknown_is_healthy(unknown):
    pressure = seen(QUEUE, SHORT_OF_MEMORY, unknown)
    assert not pressure.overloaded and not pressure.out_of_memory_near
    assert not pressure.holds(new("a", 1), TOKEN_S)


def test_healthy_hosts_hold_nobody():
    assert not seen(HEALTHY).holds(new("a", 1), TOKEN_S)


def test_under_overload_one_starts_that_keeps_the_gpu_at_work_while_a_call_waits():
    # A call waits 3 s: 30,000 tokens.
    pressure = seen(QUEUE)
    assert pressure.holds(new("short", 29_999), TOKEN_S)
    assert not pressure.holds(new("long", 30_000), TOKEN_S)
    assert not pressure.holds(new("short", 29_999), None)


def test_under_overload_one_holds_whose_own_calls_take_longer_than_its_prefill():
    # Three calls of 5 s on average: 50,000 tokens; of 1 s: the wait of 3 s counts, 30,000 tokens.
    pressure = seen(QUEUE)
    slow, quick = history(3, 15.0), history(3, 3.0)
    assert pressure.holds(returned("a", 49_999)._replace(history=slow), TOKEN_S)
    assert not pressure.holds(returned("a", 50_000)._replace(history=slow), TOKEN_S)
    assert not pressure.holds(returned("a", 30_000)._replace(history=quick), TOKEN_S)


def test_what_is_cached_keeps_the_gpu_busy_for_no_time():
    pressure = seen(QUEUE)
    program = returned("a", 100_000)
    assert next_prefill_tokens(program) == 100_000 and not pressure.holds(program, TOKEN_S)
    assert next_prefill_tokens(program._replace(shared_tokens=80_000)) == 20_000
    warm = program._replace(resident_tokens=90_000, shared_tokens=80_000)
    assert next_prefill_tokens(warm) == 10_000 and pressure.holds(warm, TOKEN_S)
    assert next_prefill_tokens(program._replace(resident_tokens=0, shared_tokens=80_000)) == 100_000


def test_near_the_end_of_memory_nobody_starts_that_brings_tools_and_the_paused_may_go_on_to_their_end():
    pressure = seen(SHORT_OF_MEMORY)
    assert pressure.holds(new("long", 1_000_000), TOKEN_S) and pressure.holds(new("long", 1_000_000), None)
    assert pressure.holds(new("again", 10)._replace(history=history(3, 3.0)), TOKEN_S)
    assert not pressure.holds(returned("a", 10), TOKEN_S)


def test_who_never_called_a_tool_is_not_held():
    person = new("chat", 10)._replace(history=history(3, 600.0, ((HUMAN, 3),)))
    assert not seen(QUEUE).holds(person, TOKEN_S) and not seen(SHORT_OF_MEMORY).holds(person, TOKEN_S)
    both = person._replace(history=history(3, 600.0, (("bash", 1), (HUMAN, 2))))
    assert seen(QUEUE).holds(both, TOKEN_S) and seen(SHORT_OF_MEMORY).holds(both, TOKEN_S)


_SHARES = st.none() | st.floats(0, 1)
_VIEWS = st.builds(
    ToolsView, st.integers(0, 8), st.integers(0, 24), st.integers(0, 24), st.floats(0, 20), _SHARES, _SHARES, _SHARES
)


@given(st.lists(st.none() | _VIEWS, max_size=6), _VIEWS)
def test_the_same_report_twice_changes_nothing(past, view):
    once, twice = seen(*past, view), seen(*past, view, view)
    assert vars(once) == vars(twice)


@given(st.lists(_VIEWS, max_size=6), st.integers(1, 200_000), st.integers(1, 200_000))
def test_who_holds_for_a_longer_prefill_holds_for_a_shorter_one(past, one, other):
    pressure = seen(*past)
    short, long = (new("a", tokens) for tokens in sorted((one, other)))
    assert pressure.holds(short, TOKEN_S) or not pressure.holds(long, TOKEN_S)
