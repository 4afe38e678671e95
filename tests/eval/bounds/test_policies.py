"""The policies that know the future: what every policy keeps, and what they know."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.bounds import clairvoyant
from eval.bounds.foresight import Foresight
from eval.bounds.policies import ClairvoyantAdmission, ClairvoyantTurns
from mars_sglang.core.cost_model import CostModel
from mars_sglang.core.views import (
    ContextState,
    ContextView,
    PoolView,
    ProgramView,
    RunningView,
    ToolsView,
    TurnEnded,
    TurnView,
)
from mars_sglang.emulation.profiles import load_profile
from tests.eval.builders import program, turn

PROFILE = load_profile("a100-40g-llama-3.1-8b")
K = CostModel(PROFILE).kv_capacity_tokens


def steady(id, turns, start=4000, growth=500, out=100, tool_s=1.0):
    return program(*(turn(start + i * growth, out, tool_s=tool_s) for i in range(turns)), id=id)


SHORT, MIDDLE, LONG, SLOW = steady("short", 2), steady("middle", 6), steady("long", 30), steady("slow", 6, tool_s=50.0)
PROGRAMS = [SHORT, MIDDLE, LONG, SLOW]
KNOWN = Foresight(PROGRAMS, PROFILE, 60.0)


def ended(id, prompt=4000, out=100):
    return TurnEnded(f"{id}-turn", id, prompt, 0, out, 0.0, 0.0, 0, False)


def inside(id, turns=1, in_flight=0, idle_since_s=9.0, context=4000):
    return ProgramView(id, 0.0, None, in_flight, context, turns, None if in_flight else idle_since_s)


def waits(id, arrived_s=0.0, turns=0, context=4000, paused=False):
    return ProgramView(id, arrived_s, arrived_s, 0, context, turns, paused=paused)


def turns_policy():
    return ClairvoyantTurns(KNOWN)


def admission():
    return ClairvoyantAdmission(KNOWN)


def test_the_rest_of_a_program_gets_cheaper_turn_by_turn():
    costs = [KNOWN.cost_s("long", k) for k in range(31)]
    assert costs == sorted(costs, reverse=True) and costs[30] == 0.0
    assert KNOWN.cost_s("long", 99) == 0.0 and KNOWN.over("long", 30) and not KNOWN.over("long", 29)


def test_what_is_left_of_pauses_and_contexts_is_known():
    foresight = Foresight(PROGRAMS, PROFILE, 20.0)
    # Six turns, five pauses, each cut to 20 s; the one under way belongs to the rest.
    assert foresight.tool_s("slow", 0) == foresight.tool_s("slow", 1) == pytest.approx(100.0)
    assert foresight.tool_s("slow", 6) == 0.0
    assert foresight.pause_s("slow", 0) == 0.0 and foresight.pause_s("slow", 3) == 20.0
    assert foresight.footprint_tokens("middle", 0) == 5100
    assert foresight.footprint_tokens("middle", 5) == 6600
    assert foresight.footprint_tokens("middle", 6) == 0


def test_the_program_with_the_least_left_is_prefilled_first():
    policy = turns_policy()
    cold = [TurnView(id, id, 4000, 4000, 0.0) for id in ("long", "middle", "short")]
    assert policy.order_turns(cold, 1.0) == [2, 1, 0]
    for _ in range(28):
        policy.observe(ended("long"), 0.0)
    assert policy.order_turns([cold[0]._replace(uncached_tokens=4000), cold[1]], 1.0) == [0, 1]


def test_a_short_remainder_goes_before_a_cheaper_program():
    turns = [TurnView("a", "short", 4000, 4000, 0.0), TurnView("b", "long", 2048, 9000, 0.0)]
    assert turns_policy().order_turns(turns, 1.0) == [1, 0]
    assert turns_policy().order_turns(turns, 31.0) == [0, 1]


def test_what_is_over_goes_first_then_what_is_needed_latest():
    contexts = [
        ContextView("middle", 5000, ContextState.WAITING, 0.0, 0.0, 2),
        ContextView("middle-2", 5000, ContextState.PAUSED, 1.0, 0.0, 2),
        ContextView("slow", 5000, ContextState.TOOL, 1.0, 0.0, 2),
        ContextView("long", 5000, ContextState.TOOL, 0.5, 0.0, 2),
        ContextView("short", 5000, ContextState.TOOL, 0.0, 0.0, 2),
    ]
    order = turns_policy().order_reclaim(contexts, 10.0)
    assert [contexts[i].program for i in order] == ["short", "middle-2", "slow", "long", "middle"]


def test_the_costliest_program_is_the_first_victim():
    running = [RunningView(id, id, 5000, 10, 0.0, 0.0, 0) for id in ("short", "long", "middle")]
    assert turns_policy().order_victims(running, 0.0) == [1, 2, 0]


def test_cheap_programs_are_admitted_first_while_true_contexts_fit():
    # Each asks for 60% of the pool, so one fits.
    big = [steady(id, turns, start=int(0.6 * K), growth=10) for id, turns in (("b20", 20), ("b3", 3), ("b9", 9))]
    policy = clairvoyant(big, PROFILE)[1]
    views = [waits(p.id, arrived_s=float(i), context=10) for i, p in enumerate(big)]
    assert policy.decide([], views, PoolView(K, 0), 9.0).admit == ("b3",)


def test_a_program_that_is_over_gives_its_place_without_being_asked():
    decision = admission().decide([inside("short", turns=2)], [waits("middle")], PoolView(K, 0), 9.0)
    assert decision.pause == ("short",) and decision.admit == ("middle",)


def test_a_context_that_costs_more_to_hold_than_to_compute_again_gives_way():
    size = int(0.5 * K)
    quick, slow, other = (steady(id, 4, start=size, growth=1, tool_s=s) for id, s in (("q", 0.5), ("s", 600), ("o", 1)))
    policy = clairvoyant([quick, slow, other], PROFILE)[1]
    held = [inside("q", context=size, in_flight=0), inside("s", context=size)]
    decision = policy.decide(held[1:], [waits("o", context=size)], PoolView(K, 0), 9.0)
    assert decision.pause == ("s",) and decision.admit == ("o",)
    decision = policy.decide(held[:1], [waits("o", context=size)], PoolView(K, 0), 9.0)
    assert decision.pause == () and decision.admit == ()
    # Nearly at its end, the long pause pays again.
    assert policy.decide(held[1:], [waits("o", context=size)], PoolView(K, 0), 9.0 + 599.9).pause == ()


def test_a_costly_program_inside_a_tool_gives_way_to_a_much_cheaper_one():
    size = int(0.5 * K)
    costly, cheap, alike = (steady(id, turns, start=size, growth=1) for id, turns in (("c", 80), ("e", 2), ("a", 79)))
    policy = clairvoyant([costly, cheap, alike], PROFILE)[1]
    held = inside("c", context=size)
    assert policy.decide([held], [waits("e", context=size)], PoolView(K, 0), 9.0).pause == ("c",)
    assert policy.decide([held], [waits("a", context=size)], PoolView(K, 0), 9.0).pause == ()
    running = inside("c", context=size, in_flight=1)
    assert policy.decide([running], [waits("e", context=size)], PoolView(K, 0), 9.0).pause == ()


def test_tools_that_bind_cap_the_programs_inside():
    slow = [steady(f"s{i}", 6, start=500, growth=1, out=2, tool_s=50.0) for i in range(20)]
    policy = clairvoyant(slow, PROFILE)[1]
    views = [waits(p.id, context=500) for p in slow]
    tools = ToolsView(slots=4, active=0, queued=0, wait_s=0.0)
    assert len(policy.decide([], views, PoolView(K, 0), 0.0).admit) == 20
    # 1.5 per slot, as nearly all of their time is in tools.
    assert len(policy.decide([], views, PoolView(K, 0, tools=tools), 0.0).admit) == 7


ids = st.sampled_from([p.id for p in PROGRAMS]) | st.integers(0, 50).map(str)
times = st.floats(0, 1e6)
tokens = st.integers(1, 300_000)
turn_views = st.lists(
    st.builds(TurnView, st.integers(0, 10**6).map(str), st.none() | ids, tokens, tokens, times, st.integers(-2, 2)),
    unique_by=lambda t: t.turn_id,
)
context_views = st.lists(
    st.builds(
        ContextView, ids, tokens, st.sampled_from(["tool", "waiting", "paused"]), times, times, st.integers(0, 99)
    ),
    unique_by=lambda c: c.program,
)
running_views = st.lists(
    st.builds(RunningView, st.integers(0, 10**6).map(str), st.none() | ids, tokens, tokens, times, times,
              st.integers(0, 5), st.integers(-2, 2)),
    unique_by=lambda r: r.turn_id,
)  # fmt: skip


@given(views=turn_views, now=times, history=st.lists(ids), shuffle=st.randoms())
def test_an_order_of_turns_is_a_permutation_under_the_outer_priority(views, now, history, shuffle):
    policy = turns_policy()
    for id in history:
        policy.observe(ended(id), now)
    order = policy.order_turns(views, now)
    assert sorted(order) == list(range(len(views)))
    assert [views[i].priority for i in order] == sorted(view.priority for view in views)
    mixed = list(views)
    shuffle.shuffle(mixed)
    assert [mixed[i].turn_id for i in policy.order_turns(mixed, now)] == [views[i].turn_id for i in order]
    assert not any(policy.may_be_passed(view, view.arrived_s + 3600.0) for view in views)


@given(contexts=context_views, running=running_views, now=times)
def test_orders_of_reclaim_and_of_victims_are_stable_permutations(contexts, running, now):
    order = turns_policy().order_reclaim(contexts, now)
    assert sorted(order) == list(range(len(contexts))) and order == turns_policy().order_reclaim(contexts, now)
    victims = turns_policy().order_victims(running, now)
    assert sorted(victims) == list(range(len(running)))
    assert [running[i].priority for i in victims] == sorted((r.priority for r in running), reverse=True)
    assert turns_policy().pins(contexts, 0, now) == []


def views_of(waiting):
    return st.builds(
        ProgramView,
        program=ids,
        arrived_s=times,
        waiting_since_s=times if waiting else st.none(),
        in_flight=st.just(0) if waiting else st.integers(0, 2),
        idle_since_s=st.none() if waiting else st.none() | times,
        turns=st.integers(0, 50),
        context_tokens=st.integers(0, 100_000),
        paused=st.booleans() if waiting else st.just(False),
    )


@given(
    admitted=st.lists(views_of(False), unique_by=lambda p: p.program),
    waiting=st.lists(views_of(True), unique_by=lambda p: p.program),
    anonymous=st.integers(0, 100_000),
    slots=st.none() | st.integers(0, 4),
    now=times,
)
def test_admission_pauses_the_idle_admits_the_waiting_and_never_wedges(admitted, waiting, anonymous, slots, now):
    waiting = [p for p in waiting if p.program not in {a.program for a in admitted}]
    pool = PoolView(K, anonymous, tools=None if slots is None else ToolsView(slots, 0, 0, 0.0))
    decision = admission().decide(admitted, waiting, pool, now)
    assert len(set(decision.pause)) == len(decision.pause) and len(set(decision.admit)) == len(decision.admit)
    assert set(decision.pause) <= {p.program for p in admitted if not p.in_flight}
    assert set(decision.admit) <= {p.program for p in waiting}
    left = [p for p in admitted if p.program not in decision.pause]
    assert left or not waiting or decision.admit
    assert decision == admission().decide(admitted, waiting, pool, now)
    assert decision == admission().decide(admitted[::-1], waiting[::-1], pool, now)
