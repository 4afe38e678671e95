"""What every registered turn policy keeps after any sequence of events."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mars_sglang.core.policy import turn_policy_names
from mars_sglang.core.views import (
    ProgramOver,
    ToolKnown,
    TurnArrived,
    TurnDropped,
    TurnEnded,
    TurnStarted,
)
from tests.core.policies.engines import attached, context, ended, pinned
from tests.core.test_policy_contract import contexts, known_programs, known_turns, running, times, tokens, turns

owners = st.none() | known_programs
spans = st.floats(0, 600)

events = st.lists(
    st.tuples(
        spans,
        st.one_of(
            st.builds(TurnArrived, known_turns, owners, tokens, st.none() | spans),
            st.builds(TurnStarted, known_turns, owners, spans, st.integers(0, 3)),
            st.builds(
                TurnEnded,
                turn_id=known_turns,
                program=owners,
                prompt_tokens=tokens,
                cached_tokens=tokens,
                output_tokens=st.integers(0, 10_000),
                arrived_s=times,
                started_s=times,
                other_tokens=st.integers(0, 1_000_000),
                last=st.booleans(),
            ),
            st.builds(TurnDropped, known_turns, owners),
            st.builds(ToolKnown, known_programs, st.sampled_from(["pytest", "ls"])),
            st.builds(ProgramOver, known_programs),
        ),
    ),
    max_size=40,
)


@pytest.fixture(scope="module", params=turn_policy_names())
def policy_name(request):
    return request.param


@settings(max_examples=60, deadline=None)
@given(events=events, turns=turns, contexts=contexts, running=running, waited_s=times)
def test_whatever_was_observed_every_answer_is_in_form(policy_name, events, turns, contexts, running, waited_s):
    policy, twin, now_s = attached(policy_name), attached(policy_name), 0.0
    for after_s, event in events:
        now_s += after_s
        policy.observe(event, now_s)
        twin.observe(event, now_s)
    now_s += waited_s

    order = policy.order_turns(turns, now_s)
    assert sorted(order) == list(range(len(turns)))
    assert [turns[i].priority for i in order] == sorted(turn.priority for turn in turns)

    reclaim = policy.order_reclaim(contexts, now_s)
    assert sorted(reclaim) == list(range(len(contexts)))

    victims = policy.order_victims(running, now_s)
    assert sorted(victims) == list(range(len(running)))
    assert [running[i].priority for i in victims] == sorted((turn.priority for turn in running), reverse=True)

    for turn in turns:
        quantum = policy.quantum_tokens(turn, now_s)
        assert quantum is None or (isinstance(quantum, int) and quantum >= 1)
        assert policy.cuts_prefills or quantum is None

    assert policy.pins(contexts, 0, now_s) == []
    pins = policy.pins(contexts, 5, now_s)
    assert len(set(pins)) == len(pins) and set(pins) <= set(range(len(contexts)))
    assert policy.pins_kv or not pins

    # Kept contexts and turns are in one order, and what is kept is kept for some time.
    ranks = [policy.rank(turns[i], now_s) for i in order]
    keeps = [policy.keep(context, now_s) for context in contexts]
    if policy.keeps_kv:
        assert ranks == sorted(ranks)
        for kept in filter(None, keeps):
            assert kept.until_s > now_s and kept.tokens >= 0 and kept.shared_tokens >= 0 and kept.again_s > 0
            assert all(isinstance(kept.rank <= rank, bool) for rank in ranks)
    else:
        assert not any(keeps)

    # Another rank that saw the same decides the same, whatever was asked before, in any order of the views.
    assert [twin.keep(context, now_s) for context in contexts] == keeps
    assert twin.pins(contexts, 5, now_s) == pins
    assert twin.order_victims(running, now_s) == victims
    assert twin.order_reclaim(contexts, now_s) == reclaim
    mixed = turns[::-1]
    assert [mixed[i].turn_id for i in twin.order_turns(mixed, now_s)] == [turns[i].turn_id for i in order]


def test_the_policies_that_pin_are_those_that_say_so():
    """Else the law about pins above could hold for want of any."""
    pinning = []
    for name in turn_policy_names():
        policy = attached(name)
        policy.observe(ended("a", 20_000, other_tokens=50_000), 10.0)
        if pinned(policy, [context("a")], 10.1):
            pinning.append(name)
        assert pinned(policy, [context("a")], 10.1, turns_running=1) == []
    assert pinning == ["continuum", "continuum-fixed", "infercept"]
