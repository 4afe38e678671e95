"""What every registered policy keeps, whatever it decides."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mars_sglang.core.gate import Gate, PoolFacts
from mars_sglang.core.policy import (
    admission_policy,
    admission_policy_names,
    register_turn_policy,
    turn_policy,
    turn_policy_names,
)
from mars_sglang.core.program import HUMAN, Answer
from mars_sglang.core.views import (
    ContextState,
    ContextView,
    PoolView,
    ProgramHistory,
    ProgramView,
    RunningView,
    ToolsView,
    TurnOutcome,
    TurnView,
)
from tests.core.policies.engines import attached

times = st.floats(0, 1e6)
tokens = st.integers(1, 300_000)
ids = st.integers(0, 10**6).map(str)
# Few enough that views are often of those that a policy was told of (policies/test_observed_events.py).
known_programs = st.sampled_from(["a", "b", "c"])
known_turns = st.sampled_from(["t1", "t2", "t3", "t4"])
programs = st.none() | known_programs | ids

turns = st.lists(
    st.builds(
        TurnView,
        turn_id=known_turns | ids,
        program=programs,
        uncached_tokens=tokens,
        context_tokens=tokens,
        arrived_s=times,
        priority=st.integers(-2, 2),
        continuation=st.booleans(),
        program_arrived_s=times,
        started=st.booleans(),
    ),
    unique_by=lambda t: t.turn_id,
)
contexts = st.lists(
    st.builds(
        ContextView,
        known_programs | ids,
        tokens,
        st.sampled_from([ContextState.TOOL, ContextState.WAITING, ContextState.PAUSED]),
        times,
        times,
        st.integers(0, 100),
    ),
    unique_by=lambda c: c.program,
)
running = st.lists(
    st.builds(
        RunningView, known_turns | ids, programs, tokens, tokens, times, times, st.integers(0, 5), st.integers(-2, 2)
    ),
    unique_by=lambda r: r.turn_id,
)


#: Admission policies that keep the sum of footprints within the pool. The others are windows
#: over programs, or bound the context of now.
NEVER_OVERFILLS = {"footprint", "mars"}

#: For a policy with a parameter, by what that is called: texts to ask for.
PARAMETERS = {"N": ("3",), "OBJECTIVE": ("mean", "tail")}


def names_to_ask_for() -> list[str]:
    """Every registered admission policy; without its parameter too where that is optional."""
    names = []
    for form in admission_policy_names():
        name, _, parameter = form.replace("[", "").replace("]", "").partition(":")
        names += [name] * ("[" in form or not parameter)
        names += [f"{name}:{text}" for text in PARAMETERS.get(parameter, ())]
    return names


#: Of any number of turns: a policy may not rely on sums that fit together.
histories = st.sampled_from(
    [
        ProgramHistory(1, 1, 0, 0.0, 0, 0.0, ((HUMAN, 1),)),
        ProgramHistory(4, 800, 9_000, 30.0, 3, 2.5, (("bash", 3), ("pytest", 1))),
        ProgramHistory(50, 100_000, 250_000, 900.0, 49, 36_000.0, (("bash", 20), ("edit", 30), (HUMAN, 1))),
    ]
)


@st.composite
def program_views(draw, waiting: bool):
    in_flight = 0 if waiting else draw(st.integers(0, 2))
    turns = draw(st.integers(0, 50))
    context_tokens = draw(tokens)
    return ProgramView(
        program=draw(ids),
        arrived_s=draw(times),
        waiting_since_s=draw(times) if waiting else None,
        in_flight=in_flight,
        context_tokens=context_tokens,
        turns=turns,
        idle_since_s=draw(times) if turns and not in_flight else None,
        paused=draw(st.booleans()) if waiting else False,
        tenant=draw(st.sampled_from(["", "a", "b"])),
        shared_tokens=draw(st.integers(0, context_tokens)),
        resident_tokens=draw(st.none() | st.integers(0, context_tokens)),
        first_tokens=draw(st.integers(0, context_tokens)),
        history=draw(histories) if turns else None,
        remaining_turns=draw(st.none() | st.floats(0, 1000)),
    )


pools = st.builds(
    PoolView,
    capacity_tokens=st.integers(1, 1_000_000),
    anonymous_tokens=st.integers(0, 100_000),
    referenced_tokens=st.integers(0, 1_000_000),
    tools=st.none()
    | st.builds(ToolsView, st.integers(0, 16), st.integers(0, 16), st.integers(0, 64), st.floats(0, 100)),
    host_tokens=st.sampled_from([0, 0, 500_000]),
    host_copies=st.booleans(),
    engine_keeps=st.booleans(),
    prefill_token_s=st.none() | st.floats(1e-6, 1e-3),
    load_token_s=st.none() | st.floats(1e-7, 1e-3),
)
outcomes = st.builds(
    TurnOutcome,
    program=ids,
    prompt_tokens=tokens,
    cached_tokens=st.integers(0, 300_000),
    known_tokens=st.integers(0, 300_000),
    output_tokens=tokens,
    grown_tokens=st.none() | st.integers(0, 300_000),
    passed_s=times,
)


@pytest.fixture(scope="module", params=turn_policy_names())
def policy_name(request):
    return request.param


@pytest.fixture(scope="module", params=names_to_ask_for())
def admission_name(request):
    return request.param


@settings(deadline=None)
@given(views=turns, now=times, shuffle=st.randoms())
def test_an_order_of_turns_is_a_permutation_that_does_not_depend_on_the_input_order(policy_name, views, now, shuffle):
    policy = attached(policy_name)
    order = policy.order_turns(views, now)
    assert sorted(order) == list(range(len(views)))
    mixed = copy.copy(views)
    shuffle.shuffle(mixed)
    assert [mixed[i].turn_id for i in policy.order_turns(mixed, now)] == [views[i].turn_id for i in order]


@settings(deadline=None)
@given(views=turns, now=times)
def test_an_outer_priority_is_above_the_policys_own_order(policy_name, views, now):
    order = attached(policy_name).order_turns(views, now)
    assert [views[i].priority for i in order] == sorted(view.priority for view in views)


@settings(deadline=None)
@given(view=turns.filter(bool).map(lambda views: views[0]))
def test_every_turn_is_at_some_time_no_longer_passed(policy_name, view):
    assert not attached(policy_name).may_be_passed(view, view.arrived_s + 3600.0)


@settings(deadline=None)
@given(views=contexts, now=times)
def test_a_reclaim_order_is_a_permutation_and_stable(policy_name, views, now):
    policy = attached(policy_name)
    order = policy.order_reclaim(views, now)
    assert sorted(order) == list(range(len(views)))
    assert order == attached(policy_name).order_reclaim(views, now)


@settings(deadline=None)
@given(views=running, now=times)
def test_a_victim_order_is_a_permutation_with_the_least_urgent_first(policy_name, views, now):
    order = attached(policy_name).order_victims(views, now)
    assert sorted(order) == list(range(len(views)))
    assert [views[i].priority for i in order] == sorted((view.priority for view in views), reverse=True)


@settings(deadline=None)
@given(
    rounds=st.lists(
        st.tuples(
            st.lists(program_views(waiting=False), unique_by=lambda p: p.program, max_size=6),
            st.lists(program_views(waiting=True), unique_by=lambda p: p.program, max_size=6),
            pools,
            st.floats(0, 100),
            st.lists(outcomes, max_size=3),
            st.floats(0, 10_000),
            st.booleans(),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_admission_pauses_idle_programs_admits_waiting_ones_and_never_wedges(admission_name, rounds):
    """One policy through several decisions, so that what it remembers takes part; a second one decides alike."""
    policy, twin = admission_policy(admission_name), admission_policy(admission_name)
    assert policy.name == admission_name
    now_s = 0.0
    over: list[ProgramView] = []
    for admitted, waiting, pool, later_s, turns, silent_s, said in rounds:
        now_s += later_s
        waiting = [p for p in waiting if p.program not in {a.program for a in admitted}]
        for one in (policy, twin):
            for turn in turns:
                one.observe_turn(turn, now_s)
            for view in over:
                one.observe_over(view, said, now_s)
            for view in waiting:
                if view.turns:
                    one.observe_pause(view, silent_s)
        over = admitted
        decision = policy.decide(admitted, waiting, pool, now_s)
        assert decision == twin.decide(admitted, waiting, pool, now_s)
        by_id = {p.program: p for p in [*admitted, *waiting]}
        assert len(set(decision.pause)) == len(decision.pause) and len(set(decision.admit)) == len(decision.admit)
        # Only what is inside a tool may be paused, only what waits may be admitted.
        assert all(p in {a.program for a in admitted} and not by_id[p].in_flight for p in decision.pause)
        assert set(decision.admit) <= {p.program for p in waiting}
        inside = [p for p in admitted if p.program not in decision.pause]
        # With nobody inside, somebody gets in, however large.
        assert inside or not waiting or decision.admit
        assert all(policy.footprint_tokens(p) == twin.footprint_tokens(p) >= 0 for p in by_id.values())
        if admission_name.partition(":")[0] in NEVER_OVERFILLS and not pool.host_tokens and not pool.engine_keeps:
            used = pool.anonymous_tokens + sum(policy.footprint_tokens(p) for p in inside)
            for i, program in enumerate(decision.admit):
                used += policy.footprint_tokens(by_id[program])
                assert used <= pool.capacity_tokens or (i == 0 and not inside)


@settings(max_examples=50, deadline=None)
@given(
    admitted=st.lists(program_views(waiting=False), unique_by=lambda p: p.program),
    waiting=st.lists(program_views(waiting=True), unique_by=lambda p: p.program),
    pool=pools,
    now=times,
    shuffle=st.randoms(),
)
def test_an_admission_decision_does_not_depend_on_the_input_order(
    admission_name, admitted, waiting, pool, now, shuffle
):
    waiting = [p for p in waiting if p.program not in {a.program for a in admitted}]
    decision = admission_policy(admission_name).decide(admitted, waiting, pool, now)
    shuffle.shuffle(admitted)
    shuffle.shuffle(waiting)
    assert admission_policy(admission_name).decide(admitted, waiting, pool, now) == decision


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 90_000), min_size=1, max_size=12), capacity=st.integers(20_000, 400_000))
def test_every_program_of_a_burst_gets_its_turn_when_the_others_end(admission_name, sizes, capacity):
    """Through the gate, with a decision a second: who is inside runs one turn, is silent for 3 s, runs one more."""
    gate = Gate(admission_policy(admission_name), PoolFacts(capacity))
    for i, tokens in enumerate(sizes):
        gate.submit(f"p{i}", f"p{i}/0", tokens, 0.0)
    running: dict[str, float] = {}
    done: set[str] = set()
    back: dict[str, float] = {}
    for second in range(4000):
        now_s = float(second)
        for turn in [turn for turn, at_s in back.items() if at_s <= now_s]:
            del back[turn]
            size = sizes[int(turn[1:].split("/")[0])] + 500
            if gate.submit(turn.split("/")[0], turn, size, now_s):
                running[turn] = now_s + 2.0
        for turn in [turn for turn, at_s in running.items() if at_s <= now_s]:
            del running[turn]
            program, number = turn.split("/")
            prompt = sizes[int(program[1:])] + 500 * (int(number) + 1) - 100
            gate.finish(program, turn, now_s, Answer(prompt, 100, 0, ("bash",)), last=number == "1")
            if number == "1":
                done.add(program)
            else:
                back[f"{program}/1"] = now_s + 3.0
        running |= dict.fromkeys(gate.decide(now_s).passed, now_s + 2.0)
        if len(done) == len(sizes):
            return
    raise AssertionError(f"{sorted(back)} silent, {sorted(running)} running and {len(done)} done after an hour")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown turn policy 'lru'; known: .*mars"):
        turn_policy("lru")
    with pytest.raises(ValueError, match=r"unknown admission policy 'x'; known: .*footprint, mars.*, .*window:N"):
        admission_policy("x")


@pytest.mark.parametrize("name", ["window", "window:", "window:0", "window:-1", "window:1.5", "window:x"])
def test_a_parameter_that_is_missing_or_not_accepted_is_named_with_the_accepted_form(name):
    given_n = name.partition(":")[2]
    with pytest.raises(ValueError, match=rf"policy 'window' with N '{given_n}'; accepted: window:N"):
        admission_policy(name)


def test_a_policy_without_a_parameter_takes_none():
    with pytest.raises(ValueError, match="unknown admission policy 'footprint:3'; known: "):
        admission_policy("footprint:3")


def test_a_name_is_registered_once():
    class Twice:
        name = "mars"

    turn_policy_names()
    with pytest.raises(ValueError, match="registered twice"):
        register_turn_policy(Twice)
