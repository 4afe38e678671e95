"""The MARS turn policy on an engine that prefills 10,000 tokens a second and holds 100,000."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mars_sglang.core.dormancy import DORMANT_MAX_S
from mars_sglang.core.forecast import Forecast, engine_s
from mars_sglang.core.policies.mars import MAX_PASSED_S, RANK_MAX_S, UNCACHED_WEIGHT
from mars_sglang.core.policy import turn_policy
from mars_sglang.core.program import Program
from mars_sglang.core.views import ContextState, PoolView, ProgramOver, TurnArrived, TurnDropped, TurnStarted
from tests.core.policies.engines import attached, context, ended, reclaim_order, running, turn_order, victim_order
from tests.core.policies.engines import waiting as waiting_turn
from tests.core.policies.test_observed_events import events
from tests.core.test_policy_contract import tokens, turns

#: Of a context of 2048 tokens, the middle of the first step: the pool for as long as it takes to compute it again
#: holds so many of it.
LIMIT_S = 10.0 * (1 + 2048 / 45_000)


def mars():
    return attached("mars")


def seconds(policy, turn, now_s=0.0) -> float:
    return policy.rank(turn, now_s)[1]


def arrive(policy, turn_id, program, at_s=0.0, prompt=1_000, pause_s=None):
    policy.observe(TurnArrived(turn_id, program, prompt, pause_s), at_s)


def run_turn(policy, turn_id, program, at_s, end_s, prompt=1_000, output=100, **fields):
    arrive(policy, turn_id, program, at_s, prompt)
    policy.observe(TurnStarted(turn_id, program, 0.0, 0), at_s)
    policy.observe(ended(program, prompt + output, turn_id=turn_id, output_tokens=output, **fields), end_s)


# -- what is first -----------------------------------------------------------------------------


def test_a_first_turn_ranks_by_its_prompt_and_by_what_is_expected_of_a_program_of_which_nothing_is_known():
    policy = mars()
    arrive(policy, "a1", "a", 50.0)
    new = Program("a", 50.0)
    new.hold("a1", 1_000, 50.0)
    expected_s = engine_s(new.view(), Forecast().rest(new.view()), PoolView(100_000, 0, prefill_token_s=1e-4))
    rank = 0, pytest.approx(3.0 + expected_s + policy.ageing * 50.0)
    assert policy.rank(waiting_turn("a1", "a", 50.0), 60.0) == rank


def test_of_programs_alike_the_one_with_less_to_compute_is_first_by_the_seconds_that_it_saves():
    policy = mars()
    for name in "ab":
        arrive(policy, f"{name}1", name, prompt=50_000)
    warm = waiting_turn("a1", "a", uncached_tokens=300, context_tokens=50_000)
    cold = waiting_turn("b1", "b", uncached_tokens=50_000, context_tokens=50_000)
    assert seconds(policy, cold) - seconds(policy, warm) == pytest.approx(UNCACHED_WEIGHT * 4.97)
    assert turn_order(policy, [cold, warm], 0.0) == ["a1", "b1"]


def test_a_program_that_came_earlier_makes_up_for_work_at_the_stated_rate():
    policy = mars()
    for name in ("big", "soon", "late"):
        arrive(policy, name, name)
    big = waiting_turn("big", "big", 0.0, uncached_tokens=30_000, context_tokens=30_000)
    even_s = UNCACHED_WEIGHT * 3.0 / policy.ageing
    soon, late = (
        waiting_turn(name, name, even_s + by_s, uncached_tokens=1, context_tokens=30_000)
        for name, by_s in (("soon", -0.1), ("late", 0.1))
    )
    assert turn_order(policy, [late, big, soon], 100.0) == ["soon", "big", "late"]


def test_the_objective_says_what_age_is_worth():
    ageing = [turn_policy(name).ageing for name in ("mars:mean", "mars", "mars:balanced", "mars:tail")]
    assert ageing == [0.1, 0.3, 0.3, 1.0] and turn_policy("mars:tail").longest_pass_s == 600.0
    with pytest.raises(ValueError, match="'fast'; accepted: mean, balanced, tail, or none"):
        turn_policy("mars:fast")


def test_work_counts_up_to_a_limit():
    policy = mars()
    endless = waiting_turn("t", None, 7.0, program_arrived_s=7.0)._replace(program="p", uncached_tokens=10**9)
    assert seconds(policy, endless) == RANK_MAX_S + policy.ageing * 7.0


def test_requests_without_a_program_take_the_time_of_their_prompt_and_stay_in_their_order():
    policy = mars()
    arrive(policy, "long", None, 0.0, prompt=50_000)
    arrive(policy, "short", None, 1.0, prompt=100)
    arrive(policy, "later", None, 100.0, prompt=100)
    views = [waiting_turn("later", None, 100.0), waiting_turn("short", None, 1.0), waiting_turn("long", None, 0.0)]
    assert [seconds(policy, view) for view in views[::-1]] == [5.0, 5.0, pytest.approx(30.01)]
    assert turn_order(policy, views, 100.0) == ["long", "short", "later"]


@settings(deadline=None)
@given(arrivals=st.lists(st.tuples(st.floats(0.001, 100), st.integers(1, 10**8)), max_size=20))
def test_requests_without_a_program_are_first_come_first_served_among_themselves(arrivals):
    policy, now_s, views = mars(), 0.0, []
    for i, (after_s, prompt) in enumerate(arrivals):
        now_s += after_s
        arrive(policy, str(i), None, now_s, prompt)
        views.append(waiting_turn(str(i), None, now_s, uncached_tokens=prompt, context_tokens=prompt))
    assert turn_order(policy, views[::-1], now_s) == [view.turn_id for view in views]


def observed(happened):
    policy, now_s = mars(), 0.0
    for after_s, event in happened:
        now_s += after_s
        policy.observe(event, now_s)
    return policy, now_s


@settings(max_examples=60, deadline=None)
@given(happened=events, views=turns, later_s=st.floats(0, 1e6))
def test_a_rank_does_not_change_while_nothing_happens(happened, views, later_s):
    policy, now_s = observed(happened)
    ranks = [policy.rank(view, now_s) for view in views]
    assert [policy.rank(view, now_s + later_s) for view in views] == ranks


@settings(max_examples=60, deadline=None)
@given(happened=events, views=turns, came_s=st.floats(0, 1e4), later_s=st.floats(0, 1e4))
def test_nobody_is_passed_by_a_program_that_came_so_much_later(happened, views, came_s, later_s):
    policy, now_s = observed(happened)
    if len(views) < 2:
        return
    bound_s = came_s + policy.longest_pass_s + later_s + 1.0
    first = views[0]._replace(program="first", program_arrived_s=came_s, priority=0)
    later = [v._replace(program=v.program or "p", program_arrived_s=bound_s, priority=0) for v in views[1:]]
    assert all(policy.rank(first, now_s) < policy.rank(view, now_s) for view in later)


@settings(deadline=None)
@given(prompts=st.lists(st.integers(1, 10**8), min_size=1, max_size=5))
def test_nor_is_a_request_without_a_program(prompts):
    policy = mars()
    for i, prompt in enumerate(prompts):
        arrive(policy, str(i), None, float(i), prompt)
    last = len(prompts) - 1
    view = waiting_turn(str(last), None, float(last))
    later = waiting_turn("p1", "p", last + policy.longest_pass_s + 1.0)
    assert policy.rank(view, 0.0) < policy.rank(later, 0.0)


def test_an_outer_priority_is_above_all():
    policy = mars()
    urgent = waiting_turn("u", "u", 5_000.0, uncached_tokens=300_000, priority=-1)
    assert turn_order(policy, [waiting_turn("a", "a", 0.0), urgent], 5_000.0) == ["u", "a"]


def test_a_turn_that_does_not_fit_may_be_passed_for_a_bounded_time():
    policy, view = mars(), waiting_turn("t", "p", 10.0)
    assert policy.may_be_passed(view, 10.0 + MAX_PASSED_S - 1)
    assert not policy.may_be_passed(view, 10.0 + MAX_PASSED_S)


# -- what is learned ---------------------------------------------------------------------------


def test_a_turn_that_was_given_up_before_it_ran_teaches_nothing():
    dropped, ended_early, fresh = mars(), mars(), mars()
    for policy in (dropped, ended_early):
        arrive(policy, "x1", "x", 0.0, prompt=50_000)
    dropped.observe(TurnDropped("x1", "x"), 3.0)
    ended_early.observe(ended("x", 90_000, turn_id="x1", cached_tokens=40_000, output_tokens=20_000), 3.0)
    for policy in (dropped, ended_early, fresh):
        arrive(policy, "x2", "x", 4.0)
    view = waiting_turn("x2", "x", 4.0)
    assert seconds(dropped, view) == seconds(ended_early, view) == seconds(fresh, view)


def test_a_turn_that_was_given_up_no_longer_counts_as_one_that_waits():
    """Else its program would be of twice the size, and never be forgotten."""
    policy = mars()
    arrive(policy, "x1", "x", 0.0, prompt=50_000)
    policy.observe(TurnDropped("x1", "x"), 1.0)
    assert policy._programs.get("x").view().context_tokens == 0
    policy.observe(ProgramOver("x"), 2.0)
    assert len(policy._programs) == 0


@pytest.mark.parametrize("said", [True, False])
def test_a_program_that_is_over_is_forgotten(said):
    policy = mars()
    for i in range(200):
        run_turn(policy, f"{i}/0", f"p{i}", float(i), i + 0.5, last=said)
        policy.order_turns([waiting_turn(f"{i}/1", f"p{i}")], i + 0.6)
        policy.observe(TurnDropped(f"{i}/1", f"p{i}"), i + 0.7)
        if not said:
            policy.observe(ProgramOver(f"p{i}"), i + 0.8)
    assert (len(policy._programs), len(policy._work)) == (0, 0)
    assert len(policy._keys) < 100
    assert policy.keep(context("p0"), 60.0) is None


def test_programs_that_ran_short_are_expected_to_be_short():
    """Of two kinds of program, told apart by their first prompts, the one that ended after a turn goes first."""
    policy = mars()
    for i in range(100):
        run_turn(policy, f"s{i}/0", f"s{i}", i, i + 0.5, prompt=3_000, last=True)
        for n in range(5):
            run_turn(policy, f"l{i}/{n}", f"l{i}", i + n / 8, i + n / 8 + 0.05, prompt=1_000 + 500 * n, last=n == 4)
    arrive(policy, "short", "short", 100.0, 3_000)
    arrive(policy, "long", "long", 100.0, 1_000)
    views = [waiting_turn(name, name, 100.0, uncached_tokens=1_000) for name in ("long", "short")]
    assert turn_order(policy, views, 100.0) == ["short", "long"]


# -- what stays --------------------------------------------------------------------------------


def test_a_context_is_kept_in_its_programs_place_until_its_silence_costs_as_much_as_computing_it_again():
    policy = mars()
    run_turn(policy, "a1", "a", 0.0, 10.0, prompt=1_900, output=100, cached_tokens=500)
    kept = policy.keep(context("a", tokens=2_000, idle_s=0.0), 10.0)
    assert (kept.tokens, kept.shared_tokens, kept.again_s) == (1_500, 500, 0.2)
    assert kept.until_s == pytest.approx(10.0 + LIMIT_S)
    # The place of a next turn with nothing to compute.
    view = waiting_turn("a2", "a", 10.0, uncached_tokens=0, context_tokens=2_000, program_arrived_s=0.0)
    assert kept.rank == policy.rank(view, 10.0)


def test_asked_again_it_is_kept_no_longer_than_at_first():
    policy = mars()
    run_turn(policy, "a1", "a", 0.0, 10.0)
    assert policy.keep(context("a", idle_s=4.0), 14.0).until_s == pytest.approx(10.0 + LIMIT_S)


def test_a_paused_dormant_or_unknown_program_is_kept_from_nobody():
    policy = mars()
    run_turn(policy, "a1", "a", 0.0, 10.0)
    assert policy.keep(context("a", state=ContextState.PAUSED), 10.0) is None
    assert policy.keep(context("a", idle_s=LIMIT_S - 0.01), 10.0) is not None
    assert policy.keep(context("a", idle_s=LIMIT_S + 0.01), 10.0) is None
    assert policy.keep(context("unknown"), 10.0) is None


@settings(max_examples=60, deadline=None)
@given(happened=events, size=tokens, idle_s=st.floats(0, 1000))
def test_what_is_kept_is_all_of_the_context_and_for_a_bounded_silence(happened, size, idle_s):
    policy, now_s = observed(happened)
    kept = policy.keep(context("a", tokens=size, idle_s=idle_s), now_s)
    if kept is not None:
        assert kept.tokens + kept.shared_tokens == size and min(kept.tokens, kept.shared_tokens) >= 0
        assert now_s < kept.until_s <= now_s - idle_s + DORMANT_MAX_S + 1e-6
        assert kept.again_s == size / 10_000


def test_contexts_go_paused_then_dormant_the_longest_silent_first_then_from_the_end_of_the_order():
    policy = mars()
    names = ["waiting-late", "tool-old", "tool-new", "silent", "silent-longer", "paused-old", "paused-new"]
    for name in names:
        run_turn(policy, name, name, 0.0, 1.0)
    contexts = [
        context("waiting-late", state=ContextState.WAITING, idle_s=3 * LIMIT_S, program_arrived_s=3.0),
        context("tool-old", program_arrived_s=1.0),
        context("tool-new", program_arrived_s=2.0),
        context("silent", idle_s=LIMIT_S + 0.01),
        context("silent-longer", idle_s=2 * LIMIT_S),
        context("paused-old", state=ContextState.PAUSED, program_arrived_s=8.0),
        context("paused-new", state=ContextState.PAUSED, program_arrived_s=9.0),
    ]
    assert reclaim_order(policy, contexts, 0.0) == [
        "paused-new", "paused-old", "silent-longer", "silent", "waiting-late", "tool-new", "tool-old",
    ]  # fmt: skip


def test_the_victim_is_the_latest_program_and_not_the_same_turn_again():
    policy = mars()
    old, new = (running(name, name, program_arrived_s=at_s) for name, at_s in (("old", 1.0), ("new", 3.0)))
    newest = running("newest-but-a-victim-already", "newest", program_arrived_s=9.0, retractions=1)
    assert victim_order(policy, [old, newest, new]) == ["new", "old", "newest-but-a-victim-already"]


def test_of_one_programs_turns_the_one_that_answered_least_is_the_victim_and_an_urgent_one_the_last():
    policy = mars()
    views = [
        running("urgent", "p", priority=-1),
        running("more", "p", output_tokens=90),
        running("less", "p", output_tokens=10),
    ]
    assert victim_order(policy, views) == ["less", "more", "urgent"]
