"""MARS's admission, by hand where a number can be worked out and by law where it cannot."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mars_sglang.core.admission.mars import (
    FILL,
    OBJECTIVES,
    OVERBOOK,
    TOOLS_HOLD_S,
    MarsAdmission,
)
from mars_sglang.core.admission.passed_over import MAX_PASSED_OVER
from mars_sglang.core.forecast import INDEX_MAX_S
from mars_sglang.core.gate import Gate, PoolFacts
from mars_sglang.core.policy import admission_policy
from mars_sglang.core.program import Answer
from mars_sglang.core.views import PoolView, ToolsView
from tests.core.admission.programs import in_tool, new, returned, working

#: What is reserved for growth until turns were seen: 2 x 600 tokens.
AHEAD = 1200
K = 100_000


def decide(admitted, waits, policy=None, now_s=10.0, pool=None):
    return (policy or MarsAdmission()).decide(admitted, waits, pool or PoolView(K, 0, prefill_token_s=1e-4), now_s)


def test_a_footprint_is_what_a_program_holds_of_its_own_and_growth_for_two_turns():
    policy = MarsAdmission()
    assert policy.footprint_tokens(working("a", 3000)) == 3000 + AHEAD
    assert policy.footprint_tokens(working("b", 3000)._replace(shared_tokens=1000)) == 2000 + AHEAD


def test_a_prefix_that_programs_share_counts_once():
    def sharing(count):
        return [working(f"p{i}", 10_000)._replace(shared_tokens=1000) for i in range(count)]

    # 8 x 10,200 + 1000 + 10,200 = 92,800 under 95,000, which 8 x 11,200 + 10,200 = 99,800 is not.
    assert decide(sharing(8), [new("next", 9000)]).admit == ("next",)
    assert decide([working(f"p{i}", 10_000) for i in range(8)], [new("next", 9000)]).admit == ()


def test_the_cheapest_program_starts_first_where_not_all_fit():
    # 60,000 are inside, so nobody else is among the eldest. 11,200 and 21,200 fit under 95,000; then 31,200 do not.
    inside = [working("x", 60_000 - AHEAD, arrived_s=-1.0)]
    waits = [new("large", 30_000, 0.0), new("middle", 20_000, 1.0), new("small", 10_000, 2.0)]
    assert decide(inside, waits).admit == ("small", "middle")


def test_those_who_came_first_start_first_as_far_as_they_fit_into_the_share_that_is_kept():
    # Empty, half of the memory is for the eldest: the large one of 31,200 comes before the small ones that came later.
    waits = [new("large", 30_000, 0.0), *(new(f"small-{i}", 8800, 1.0 + i) for i in range(9))]
    assert decide([], waits).admit[0] == "large"
    assert decide([], waits, MarsAdmission("mean")).admit[0] == "small-0"


def test_a_program_is_never_passed_by_one_that_came_the_longest_pass_later():
    policy = MarsAdmission()
    assert policy.longest_pass_s == INDEX_MAX_S / 0.1 == 3000.0
    # Room for one of the two.
    room = [working("x", 55_000 - AHEAD, arrived_s=-1.0)]
    costly = new("costly", 30_000, 0.0)._replace(remaining_turns=5000.0)
    for came_s, first in ((2000.0, "cheap"), (policy.longest_pass_s + 1, "costly")):
        cheap = new("cheap", 30_000, came_s)._replace(remaining_turns=1.0)
        assert decide(room, [costly, cheap], now_s=came_s).admit == (first,)


def test_one_that_does_not_fit_is_passed_by_so_many_and_then_all_wait_with_it():
    policy, inside = MarsAdmission(), [working("x", 60_000, arrived_s=-1.0)]
    big = new("big", 50_000, 0.0)._replace(remaining_turns=1.0)
    for i in range(MAX_PASSED_OVER):
        small = new(f"small-{i}", 1000, 1.0)._replace(remaining_turns=3000.0)
        assert decide(inside, [big, small], policy).admit == (f"small-{i}",)
    late = new("late", 1000, 1.0)._replace(remaining_turns=3000.0)
    assert decide(inside, [big, late], policy).admit == ()


def test_an_overfull_pool_pauses_inside_a_tool_the_last_in_order_and_never_one_at_work():
    inside = [
        working("running", 50_000, 0.0),
        in_tool("small", 20_000, 1.0),
        in_tool("large", 40_000, 2.0),
    ]
    assert decide(inside, []).pause == ("large",)
    assert decide([working("running", 500_000)], []).pause == ()


def test_a_dormant_program_gives_its_place_to_one_that_waits():
    # Until pauses were seen: the pool for as long as its prefill takes, 100,000 x .0001 x (1 + 60,000 / 45,000) = 23 s.
    silent = in_tool("silent", 60_000, idle_since_s=0.0)
    assert decide([silent], [new("next", 50_000)], now_s=15.0).admit == ()
    decision = decide([silent], [new("next", 50_000)], now_s=60.0)
    assert (decision.pause, decision.admit) == (("silent",), ("next",))


def test_a_program_larger_than_all_gets_in_when_nobody_is_inside():
    assert decide([], [new("huge", 5 * K)]).admit == ("huge",)


def test_a_host_tier_counts_as_far_as_it_holds_more_than_the_pool():
    inside, waits = [working("x", 60_000)], [new("next", 60_000)]
    assert decide(inside, waits).admit == ()
    assert decide(inside, waits, pool=PoolView(K, 0, host_tokens=K)).admit == ()
    assert decide(inside, waits, pool=PoolView(K, 0, host_tokens=4 * K)).admit == ("next",)
    # One that holds no copies adds to the pool: 100,000 + 90,000.
    assert decide(inside, waits, pool=PoolView(K, 0, host_tokens=K, host_copies=False)).admit == ("next",)


def test_where_the_engine_keeps_contexts_itself_more_than_the_memory_is_given_away():
    # 300,000 are given away.
    keeps = PoolView(round(3 * K / OVERBOOK), 0, prefill_token_s=1e-4, engine_keeps=True)
    # 61,200 each: four are 244,800 under .95 x 300,000, and five are 306,000.
    three, waits = [working(name, 60_000, -1.0) for name in "wxy"], [new("next", 60_000)]
    four = [*three, working("z", 60_000)]
    assert decide(three, waits).admit == ()
    assert decide(three, waits, pool=keeps).admit == ("next",)
    assert decide(four, waits, pool=keeps).admit == ()
    # Overfull from 300,000 on: 244,800 and 51,200 are not, 244,800 and 61,200 are.
    for tokens, paused in ((50_000, ()), (60_000, ("tool",))):
        assert decide([*four, in_tool("tool", tokens, 1.0)], [], pool=keeps).pause == paused
    # A host tier counts where it is more: 90,000 are not, 360,000 and 12,500 + 360,000 are.
    assert decide(four, waits, pool=replace(keeps, host_tokens=K)).admit == ()
    assert decide(four, waits, pool=replace(keeps, host_tokens=4 * K)).admit == ("next",)
    assert decide(four, waits, pool=replace(keeps, host_tokens=4 * K, host_copies=False)).admit == ("next",)


def test_a_program_inside_a_tool_counts_in_full_however_long_another_waits():
    policy = MarsAdmission()
    # 91,200 and 11,200.
    for now_s in (0.0, 100.0, 1000.0):
        assert decide([in_tool("x", 90_000)], [new("next", 10_000)], policy, now_s).admit == ()


def test_overloaded_tools_hold_a_short_prefill_for_a_minute_at_most():
    tools = ToolsView(slots=4, active=4, queued=8, wait_s=20.0)
    pool = PoolView(K, 0, prefill_token_s=1e-4, tools=tools)
    inside, short = [working("x", 1000)], new("short", 1000, 0.0)
    assert decide(inside, [short], pool=pool, now_s=TOOLS_HOLD_S - 1).admit == ()
    assert decide(inside, [short], pool=pool, now_s=TOOLS_HOLD_S).admit == ("short",)
    assert decide([], [short], pool=pool, now_s=1.0).admit == ("short",)


def test_more_programs_than_keep_the_tools_busy_wait():
    # Until turns were seen each takes 5 s and a tool 2 s: 1.5 x 1 slot x 7 / 2 = 5.25 programs.
    pool = PoolView(K, 0, prefill_token_s=1e-4, tools=ToolsView(1, 0, 0, 0.0))
    waits = [new(f"p{i}", 1000, float(i)) for i in range(9)]
    assert len(decide([], waits, pool=pool).admit) == 6


def test_objectives_are_named_and_nothing_else_is_accepted():
    assert [admission_policy(name).name for name in ("mars", "mars:mean", "mars:tail", "mars:balanced")] == [
        "mars",
        "mars:mean",
        "mars:tail",
        "mars",
    ]
    with pytest.raises(ValueError, match="OBJECTIVE 'fast'; accepted: mean, balanced, tail"):
        admission_policy("mars:fast")


@given(st.floats(allow_nan=True, allow_infinity=True), st.sampled_from(sorted(OBJECTIVES)))
def test_whatever_a_client_says_of_its_turns_it_passes_nobody_who_came_the_longest_pass_before(said, objective):
    policy = MarsAdmission(objective)
    honest = new("honest", 30_000, 0.0)
    liar = new("liar", 30_000, policy.longest_pass_s + 1.0)._replace(remaining_turns=said)
    room = [working("x", 55_000 - AHEAD, arrived_s=-1.0)]
    assert decide(room, [liar, honest], policy, now_s=policy.longest_pass_s + 2).admit == ("honest",)


sizes = st.lists(st.integers(100, 60_000), max_size=12)


@settings(deadline=None)
@given(sizes, sizes, sizes, st.sampled_from(sorted(OBJECTIVES)), st.booleans())
def test_nobody_is_let_in_over_the_share_that_is_filled_and_who_fits_is_not_held(
    at_work, acting, waits, objective, engine_keeps
):
    policy = MarsAdmission(objective)
    pool = PoolView(K, 0, prefill_token_s=1e-4, engine_keeps=engine_keeps)
    room = FILL * K * (OVERBOOK if engine_keeps else 1)
    inside = [working(f"w{i}", n, float(i)) for i, n in enumerate(at_work)]
    inside += [in_tool(f"t{i}", n, float(i)) for i, n in enumerate(acting)]
    queue = [new(f"q{i}", n, float(i)) for i, n in enumerate(waits)]
    decision = decide(inside, queue, policy, pool=pool)
    paused, admitted = set(decision.pause), set(decision.admit)
    assert paused <= {f"t{i}" for i in range(len(acting))} and len(paused) == len(decision.pause)
    assert admitted <= {p.program for p in queue} and len(admitted) == len(decision.admit)
    left = [p for p in inside if p.program not in paused]
    total = sum(policy.footprint_tokens(p) for p in [*left, *queue])
    used = sum(policy.footprint_tokens(p) for p in [*left, *(q for q in queue if q.program in admitted)])
    assert used <= room or len(left) + len(admitted) == 1 or not admitted
    if total <= room:
        assert len(admitted) == len(queue)
    # Equal input, equal decision.
    assert decide(inside, queue, MarsAdmission(objective), pool=pool) == decision


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_under_endless_overload_a_costly_program_starts_before_all_that_came_the_longest_pass_later(objective):
    policy = MarsAdmission(objective)
    gate = Gate(policy, PoolFacts(K))
    gate.prefill_token_s = 1e-4
    # Room for one beside it, which somebody has.
    for name, tokens in (("x", 60_000), ("first", 30_000)):
        gate.submit(name, f"{name}-1", tokens, 0.0)
        gate.decide(0.0)
    gate.submit("costly", "costly-1", 30_000, 1.0, remaining_turns=9000.0)
    gate.decide(1.0)
    started: list[str] = []
    inside = ["first"]
    step_s = policy.longest_pass_s / 20
    # Two come for each that leaves, all of them cheaper than the one that waits.
    for i in range(60):
        now_s = 2.0 + step_s * i
        if inside:
            name = inside.pop(0)
            gate.finish(name, f"{name}-1", now_s, Answer(30_000, 10), last=True)
        for j in range(2):
            gate.submit(f"p{i}-{j}", f"p{i}-{j}-1", 30_000, now_s, remaining_turns=0.0)
        entered = [name for name, _ in gate.decide(now_s).admitted]
        started += entered
        inside += entered
    assert "costly" in started
    before = started[: started.index("costly")]
    # It was passed, and by none that came the longest pass after it, however many of those there are.
    came_s = [2.0 + step_s * int(name[1:].split("-")[0]) for name in before]
    assert before and max(came_s) <= 1.0 + policy.longest_pass_s


def test_a_program_that_comes_back_is_ranked_with_what_it_has_to_compute_again():
    # Both hold 30,000 and came at one time; the difference is what the cache has still.
    room = [working("y", 55_000 - AHEAD, arrived_s=-1.0)]
    cold = returned("a-cold", 30_000, 0.0)._replace(resident_tokens=0)
    warm = returned("b-warm", 30_000, 0.0)._replace(resident_tokens=30_000)
    assert decide(room, [cold, warm]).admit == ("b-warm",)
