"""What every registered policy keeps, whatever it decides."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars_sglang.core.policy import (
    admission_policy,
    admission_policy_names,
    register_turn_policy,
    turn_policy,
    turn_policy_names,
)
from mars_sglang.core.views import ContextState, ContextView, PoolView, ProgramView, RunningView, TurnView

times = st.floats(0, 1e6)
tokens = st.integers(1, 300_000)
ids = st.integers(0, 10**6).map(str)
programs = st.none() | ids

turns = st.lists(
    st.builds(TurnView, ids, programs, tokens, tokens, times, st.integers(-2, 2), st.booleans()),
    unique_by=lambda t: t.turn_id,
)
contexts = st.lists(
    st.builds(
        ContextView,
        ids,
        tokens,
        st.sampled_from([ContextState.TOOL, ContextState.WAITING, ContextState.PAUSED]),
        times,
        times,
        st.integers(0, 100),
    ),
    unique_by=lambda c: c.program,
)
running = st.lists(
    st.builds(RunningView, ids, programs, tokens, tokens, times, times, st.integers(0, 5), st.integers(-2, 2)),
    unique_by=lambda r: r.turn_id,
)


def program_views(waiting: bool):
    return st.builds(
        ProgramView,
        program=ids,
        arrived_s=times,
        waiting_since_s=times if waiting else st.none(),
        in_flight=st.just(0) if waiting else st.integers(0, 2),
        footprint_tokens=tokens,
        idle_s=st.just(0.0) if waiting else times,
        turns=st.integers(0, 50),
        passed_over=st.integers(0, 40),
    )


@pytest.fixture(scope="module", params=turn_policy_names())
def policy_name(request):
    return request.param


@pytest.fixture(scope="module", params=admission_policy_names())
def admission_name(request):
    return request.param


@given(views=turns, now=times, shuffle=st.randoms())
def test_an_order_of_turns_is_a_permutation_that_does_not_depend_on_the_input_order(policy_name, views, now, shuffle):
    policy = turn_policy(policy_name)
    order = policy.order_turns(views, now)
    assert sorted(order) == list(range(len(views)))
    mixed = copy.copy(views)
    shuffle.shuffle(mixed)
    assert [mixed[i].turn_id for i in policy.order_turns(mixed, now)] == [views[i].turn_id for i in order]


@given(views=turns, now=times)
def test_an_outer_priority_is_above_the_policys_own_order(policy_name, views, now):
    order = turn_policy(policy_name).order_turns(views, now)
    assert [views[i].priority for i in order] == sorted(view.priority for view in views)


@given(view=turns.filter(bool).map(lambda views: views[0]))
def test_every_turn_is_at_some_time_no_longer_passed(policy_name, view):
    assert not turn_policy(policy_name).may_be_passed(view, view.arrived_s + 3600.0)


@given(views=contexts, now=times)
def test_a_reclaim_order_is_a_permutation_and_stable(policy_name, views, now):
    policy = turn_policy(policy_name)
    order = policy.order_reclaim(views, now)
    assert sorted(order) == list(range(len(views)))
    assert order == turn_policy(policy_name).order_reclaim(views, now)


@given(views=running, now=times)
def test_a_victim_order_is_a_permutation_with_the_least_urgent_first(policy_name, views, now):
    order = turn_policy(policy_name).order_victims(views, now)
    assert sorted(order) == list(range(len(views)))
    assert [views[i].priority for i in order] == sorted((view.priority for view in views), reverse=True)


@given(
    admitted=st.lists(program_views(waiting=False), unique_by=lambda p: p.program),
    waiting=st.lists(program_views(waiting=True), unique_by=lambda p: p.program),
    capacity=st.integers(1, 1_000_000),
    anonymous=st.integers(0, 100_000),
    now=times,
)
def test_admission_never_wedges_and_never_overfills(admission_name, admitted, waiting, capacity, anonymous, now):
    waiting = [p for p in waiting if p.program not in {a.program for a in admitted}]
    pool = PoolView(capacity, anonymous)
    decision = admission_policy(admission_name).decide(admitted, waiting, pool, now)
    by_id = {p.program: p for p in [*admitted, *waiting]}
    assert len(set(decision.pause)) == len(decision.pause) and len(set(decision.admit)) == len(decision.admit)
    # Only what is inside a tool may be paused, only what waits may be admitted.
    assert all(p in {a.program for a in admitted} and not by_id[p].in_flight for p in decision.pause)
    assert set(decision.admit) <= {p.program for p in waiting}
    inside = [p for p in admitted if p.program not in decision.pause]
    # With nobody inside, somebody gets in, however large.
    assert inside or not waiting or decision.admit
    used = anonymous + sum(p.footprint_tokens for p in inside)
    for i, program in enumerate(decision.admit):
        used += by_id[program].footprint_tokens
        assert used <= capacity or (i == 0 and not inside)
    again = admission_policy(admission_name).decide(admitted, waiting, pool, now)
    assert again == decision


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown turn policy 'lru'; known: .*mars"):
        turn_policy("lru")
    with pytest.raises(ValueError, match=r"unknown admission policy 'x'; known: .*mars"):
        admission_policy("x")


def test_a_name_is_registered_once():
    class Twice:
        name = "mars"

    turn_policy_names()
    with pytest.raises(ValueError, match="registered twice"):
        register_turn_policy(Twice)
