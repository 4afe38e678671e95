"""The preview's window, by hand: a pool of 1,000,000 tokens."""

from mars_sglang.core.admission.aimd import NO_SHORT_S, AimdAdmission
from mars_sglang.core.views import PoolView, ToolsView
from tests.core.admission.programs import in_tool, new, working

M = 1_000_000
#: A control interval and some more, exact in binary.
STEP_S = 0.25


def pool(used: float = 0.0, tools: ToolsView | None = None) -> PoolView:
    return PoolView(M, 0, referenced_tokens=round(used * M), tools=tools)


def run(policy: AimdAdmission, steps: int, view: PoolView, start_s: float = 0.0) -> list[int]:
    """W after each of ``steps`` decisions, a control interval apart."""
    windows = []
    for step in range(steps):
        policy.decide([], [], view, start_s + STEP_S * step)
        windows.append(policy.window)
    return windows


def test_tools_overloaded_cut_the_window_to_its_least_and_healthy_ones_let_it_grow_by_one():
    # 20 tools on 10 slots: 2 per slot, overloaded. W: 30 x .7 = 21; the tools' cap is 10 x 1.5 = 15 and holds at
    # once; 15 x .7 = 10.5, so 10; 7; 4.9, so 4; never below 4.
    busy = pool(tools=ToolsView(10, 10, 10, 0.0))
    policy = AimdAdmission()
    assert run(policy, 6, busy) == [15, 10, 7, 4, 4, 4]
    # 15 on 10 slots is under 2 but over 1: overloaded still. 10 on 10 is healthy: one more a step, up to the cap.
    assert run(policy, 2, pool(tools=ToolsView(10, 10, 5, 0.0)), 10.0) == [4, 4]
    assert run(policy, 13, pool(tools=ToolsView(10, 10, 0, 0.0)), 20.0) == [*range(5, 16), 15, 15]


def test_tools_that_wait_long_are_overloaded_until_they_wait_two_seconds():
    policy = AimdAdmission()
    assert run(policy, 2, pool(tools=ToolsView(0, 1, 0, 5.0))) == [21, 14]  # 30 x .7 = 21, x .7 = 14.7
    assert run(policy, 1, pool(tools=ToolsView(0, 1, 0, 2.1)), 10.0) == [9]  # 9.8
    assert run(policy, 2, pool(tools=ToolsView(0, 1, 0, 2.0)), 20.0) == [10, 11]


def test_kv_of_turns_in_flight_is_a_cap_between_the_marks_and_a_cut_above():
    # At .875, midway from .85 to .90: 30 - .5 x (30 - 4) = 17. Neither overloaded nor slack: W follows the cap.
    policy = AimdAdmission()
    assert run(policy, 2, pool(0.875)) == [17, 17]
    # At .9: overloaded and the cap is 4. Back at .875 it still is: 4. At .85 it is not, and W grows.
    assert run(policy, 1, pool(0.9), 10.0) == [4]
    assert run(policy, 2, pool(0.875), 20.0) == [4, 4]
    assert run(policy, 2, pool(0.85), 30.0) == [5, 6]


def test_a_step_needs_a_whole_interval():
    policy = AimdAdmission()
    run(policy, 1, pool(0.9))
    for now_s in (0.05, 0.1, 0.19):
        policy.decide([], [], pool(), now_s)
    assert policy.window == 4
    policy.decide([], [], pool(), 0.2)
    assert policy.window == 5


def test_programs_inside_a_tool_take_a_place_but_no_memory():
    # 28 inside tools with 50,000 tokens each: 1.4 times the pool, and still 30 - 28 = 2 places.
    inside = [in_tool(f"p{i}", 50_000) for i in range(28)]
    waiting = [new(name, 10_000, arrived_s=float(i)) for i, name in enumerate("abc")]
    decision = AimdAdmission().decide(inside, waiting, pool(), 10.0)
    assert (decision.pause, decision.admit) == ((), ("a", "b"))


def test_the_smallest_start_first_unless_all_of_them_may_start():
    waiting = [new("a", 30_000, 1.0), new("b", 10_000, 2.0), new("c", 20_000, 3.0)]
    two_places = [in_tool(f"p{i}", 1) for i in range(28)]
    assert AimdAdmission().decide(two_places, waiting, pool(), 10.0).admit == ("b", "c")
    assert AimdAdmission().decide([], waiting, pool(), 10.0).admit == ("a", "b", "c")


def test_who_does_not_fit_into_what_turns_in_flight_leave_is_skipped():
    # .9 x 1,000,000 - 850,000 = 50,000 free: b 10,000, c 20,000, then 20,000 are left for d 25,000. Three wait and
    # 26 places are free, so it goes by arrival.
    waiting = [new("b", 10_000, 1.0), new("d", 45_000, 2.0), new("c", 20_000, 3.0)]
    assert AimdAdmission().decide([in_tool("x", 1)], waiting, pool(0.85), 10.0).admit == ("b", "c")


def test_with_tools_overloaded_the_largest_start_first_long_ones_too():
    tools = ToolsView(10, 10, 10, 0.0)
    waiting = [new("a", 10_000, 1.0), new("b", 80_000, 2.0), new("c", 60_000, 3.0), new("d", 70_000, 4.0)]
    # The cap of 15 after the first step: 15 - 12 = 3 places.
    inside = [in_tool(f"p{i}", 1) for i in range(12)]
    assert AimdAdmission().decide(inside, waiting, pool(tools=tools), 10.0).admit == ("b", "d", "c")


def test_a_long_program_waits_for_a_second_without_short_ones_and_two_run_at_most():
    policy = AimdAdmission()
    inside = [working("x", 10)]
    longs = [new(name, 60_000, arrived_s=float(i)) for i, name in enumerate("abc")]
    # A short one waits and starts; the long ones do not.
    assert policy.decide(inside, [*longs, new("s", 5)], pool(), 10.0).admit == ("s",)
    assert policy.decide(inside, longs, pool(), 10.1).admit == ()
    assert policy.decide(inside, longs, pool(), 10.0 + NO_SHORT_S).admit == ()  # no short one since 10.1
    assert policy.decide(inside, longs, pool(), 10.1 + NO_SHORT_S).admit == ("a", "b")
    # Two are inside, whatever they hold by now. When one ends, the third starts.
    inside += [working("a", 90_000), in_tool("b", 60_500)]
    assert policy.decide(inside, longs[2:], pool(), 20.0).admit == ()
    assert policy.decide(inside[:2], longs[2:], pool(), 21.0).admit == ("c",)


def test_with_nobody_inside_a_long_program_starts_at_once_even_one_that_does_not_fit():
    both = [new("a", 60_000), new("b", 60_000)]
    assert AimdAdmission().decide([], both, pool(), 1.0).admit == ("a", "b")
    assert AimdAdmission().decide([], [new("a", 2 * M)], pool(), 1.0).admit == ("a",)


def test_after_an_overload_of_kv_a_long_program_waits_until_there_is_slack():
    # In a pool of 4,000,000, .875 leaves .025 x 4,000,000 = 100,000 below the high mark: 60,000 fit.
    def decided_at(policy, share, now_s):
        view = PoolView(4 * M, 0, referenced_tokens=round(share * 4 * M))
        return policy.decide([working("x", 10)], [new("a", 60_000)], view, now_s).admit

    calm, overloaded = AimdAdmission(), AimdAdmission()
    assert decided_at(calm, 0.875, 1.0) == decided_at(overloaded, 0.9, 1.0) == ()
    assert decided_at(calm, 0.875, 3.0) == ("a",)
    assert decided_at(overloaded, 0.875, 3.0) == ()
    assert decided_at(overloaded, 0.85, 4.0) == ("a",)
