"""Kept contexts by hand, and against lists that are walked."""

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mars_sglang.core.kept import LOOKED_AT, NOTHING_KEPT, Kept, KeptContexts, arrange, spare_tokens
from mars_sglang.core.views import TurnView


def kept(rank, tokens, *, until_s=100.0, shared=0, again_s=5.0) -> Kept:
    return Kept(rank, until_s, tokens, shared, again_s)


def contexts(**of: Kept) -> KeptContexts:
    table = KeptContexts()
    for program, one in of.items():
        table.put(program, one)
    return table


def turn(turn_id: str, uncached: int, program: str | None = None, cached: int = 0) -> TurnView:
    return TurnView(turn_id, program, uncached, uncached + cached, 0.0)


# -- what a turn has to leave alone ------------------------------------------------------------


def test_a_turn_leaves_alone_what_is_kept_for_programs_ranked_ahead_of_it_or_with_it():
    table = contexts(second=kept(2, 200), first=kept(1, 100), third=kept(3, 400))
    assert [table.ahead_of(rank) for rank in (0, 1, 2, 3)] == [0, 100, 300, 700]
    assert table.ahead_of(None) == 700


def test_a_prefix_that_several_have_counts_once_and_the_longest_of_them():
    table = contexts(a=kept(1, 100, shared=30), b=kept(2, 200, shared=50))
    assert (table.ahead_of(0), table.ahead_of(1), table.ahead_of(None)) == (0, 150, 350)


def test_programs_of_one_rank_are_told_apart_when_one_is_dropped():
    table = contexts(a=kept(1, 100), c=kept(1, 400), b=kept(1, 200))
    table.drop("b")
    assert (table.ahead_of(1), len(table)) == (500, 2)


def test_putting_a_program_again_replaces_what_was_kept_of_it():
    table = contexts(a=kept(1, 100))
    table.put("a", kept(5, 300))
    assert (table.ahead_of(1), table.ahead_of(5), len(table)) == (0, 300, 1)


def test_what_was_evicted_is_no_longer_kept_and_never_less_than_nothing():
    table = contexts(a=kept(1, 100, shared=30))
    assert table.ahead_of(1) == 130
    table.lose("a", 60)
    assert table.ahead_of(1) == 70
    table.lose("a", 60)
    assert table.ahead_of(1) == 30
    table.lose("unknown", 60)


def test_a_program_that_is_back_keeps_its_context_for_itself_only():
    table = contexts(a=kept(1, 100, shared=30))
    assert table.own_tokens("a") == 0
    table.asks("a")
    assert (table.own_tokens("a"), table.ahead_of(None), len(table)) == (100, 0, 0)
    table.lose("a", 40)
    table.asks("a")
    assert table.own_tokens("a") == 60
    table.drop("a")
    assert table.own_tokens("a") == table.own_tokens(None) == 0


def test_a_program_of_which_nothing_is_kept_may_come_back():
    table = contexts()
    table.asks("a")
    assert table.own_tokens("a") == 0


def test_all_can_be_forgotten():
    table = contexts(a=kept(1, 100), b=kept(2, 100))
    table.asks("b")
    table.clear()
    assert (len(table), table.ahead_of(None), table.own_tokens("b"), table.due(inf)) == (0, 0, 0, [])


# -- for how long ------------------------------------------------------------------------------


def test_when_its_time_is_over_a_program_is_named_once_and_dropped():
    table = contexts(b=kept(1, 100, until_s=20.0), a=kept(2, 100, until_s=20.0), c=kept(3, 100, until_s=30.0))
    assert table.due(19.9) == []
    assert table.due(20.0) == ["a", "b"]
    assert (table.due(20.0), table.ahead_of(None)) == ([], 100)


def test_the_time_of_what_was_replaced_or_came_back_means_nothing():
    table = contexts(a=kept(1, 100, until_s=20.0), b=kept(1, 100, until_s=20.0))
    table.put("a", kept(1, 100, until_s=40.0))
    table.asks("b")
    assert table.due(39.0) == [] and table.due(40.0) == ["a"]
    assert table.own_tokens("b") == 100


def test_an_idle_engine_lifts_what_it_could_have_computed_again_meanwhile():
    table = contexts(cheap=kept(1, 100, shared=50, again_s=2.0), dear=kept(2, 400, shared=20, again_s=9.0))
    assert table.ahead_of(None, idle_s=0.0) == 550
    assert table.ahead_of(None, idle_s=1.9) == 550
    assert table.ahead_of(None, idle_s=2.0) == 420
    assert table.ahead_of(1, idle_s=2.0) == 0
    assert table.ahead_of(None, idle_s=9.0) == 0


def test_the_next_change_is_an_end_of_keeping_or_of_what_idling_is_worth():
    table = contexts(a=kept(1, 100, until_s=20.0, again_s=3.0), b=kept(1, 100, until_s=14.0, again_s=9.0))
    assert table.next_change_s(busy_s=10.0, now_s=10.0) == pytest.approx(13.0, abs=1e-5)
    assert table.next_change_s(busy_s=10.0, now_s=13.5) == pytest.approx(14.0, abs=1e-5)
    assert contexts().next_change_s(0.0, 0.0) == inf


@settings(deadline=None)
@given(again_s=st.floats(1e-3, 1e3), busy_s=st.floats(0, 1e6))
def test_at_the_next_change_something_is_lifted(again_s, busy_s):
    table = contexts(a=kept(1, 100, until_s=inf, again_s=again_s))
    now_s = table.next_change_s(busy_s, busy_s)
    assert now_s - busy_s >= again_s or table.ahead_of(None, now_s - busy_s) == 0
    assert table.ahead_of(None, now_s - busy_s) == 0


# -- the queue ---------------------------------------------------------------------------------


def arranged(table, turns, ranks, room, spare=0, idle_s=0.0, order=None):
    order = range(len(turns)) if order is None else order
    return arrange(order, turns, lambda view: ranks[view.turn_id], table, room, spare, idle_s)


def test_turns_that_would_take_what_is_kept_from_them_go_behind_those_that_fit():
    table = contexts(a=kept(1, 600))
    turns = [turn("ahead", 900), turn("big", 500), turn("small", 300)]
    found = arranged(table, turns, {"ahead": 0, "big": 2, "small": 3}, room=1000)
    # Beside 600 of 1000 there is room for less than 400.
    assert found.order == [0, 2, 1]
    assert found.withheld == {"ahead": 0, "big": 600, "small": 600}
    assert (found.others, found.withheld_from("unknown"), found.withheld_from("ahead")) == (600, 600, 0)


def test_a_turn_that_fills_the_room_to_the_last_token_waits():
    table = contexts(a=kept(1, 600))
    turns = [turn("full", 400), turn("fits", 399)]
    assert arranged(table, turns, {"full": 2, "fits": 2}, room=1000).order == [1, 0]


def test_what_a_host_tier_holds_too_need_not_be_left_alone():
    table = contexts(a=kept(1, 600))
    turns = [turn("big", 500)]
    found = arranged(table, turns, {"big": 2}, room=1000, spare=250)
    assert (found.withheld, found.others) == ({"big": 350}, 350)
    assert arranged(table, turns, {"big": 2}, room=1000, spare=900).withheld == {"big": 0}


def test_a_waiting_turn_keeps_its_own_context_from_those_behind_it_and_needs_it_itself():
    table = contexts(back=kept(1, 600))
    table.asks("back")
    turns = [turn("first", 10), turn("back", 100, "back", cached=600), turn("behind", 500), turn("small", 100)]
    found = arranged(table, turns, dict.fromkeys(["first", "back", "behind", "small"], 0), room=1000)
    assert found.withheld == {"first": 0, "back": 0, "behind": 600, "small": 600}
    assert (found.order, found.others) == ([0, 1, 3, 2], 600)
    # Its 100 and the 600 that it needs do not fit.
    assert arranged(table, turns, dict.fromkeys(["first", "back", "behind", "small"], 0), room=700).order[0] == 0
    assert arranged(table, turns[1:2], {"back": 0}, room=701).order == [0]


def test_what_a_turn_does_not_continue_is_not_its_own():
    """A prompt that was cut needs nothing of the old context: it goes first, however many are behind it."""
    table = contexts(cut=kept(1, 600))
    table.asks("cut")
    turns = [turn("cut", 500, "cut"), turn("behind", 300)]
    found = arranged(table, turns, {"cut": 0, "behind": 1}, room=1000)
    assert (found.order, found.withheld) == ([0, 1], {"cut": 0, "behind": 0})


def test_the_order_is_the_policys_and_not_that_of_the_views():
    table = contexts(a=kept(1, 100))
    turns = [turn("x", 10), turn("y", 10)]
    assert arranged(table, turns, {"x": 2, "y": 2}, room=1000, order=[1, 0]).order == [1, 0]


def test_turns_far_behind_are_not_looked_at_and_leave_all_alone():
    table = contexts(a=kept(5, 600))
    turns = [turn(f"{i:03}", 500 if i == 0 else 10) for i in range(LOOKED_AT + 3)]
    ranks = {view.turn_id: 9 if i == 0 else 0 for i, view in enumerate(turns)}
    found = arranged(table, turns, ranks, room=1000)
    assert found.order == [*range(1, LOOKED_AT), 0, LOOKED_AT, LOOKED_AT + 1, LOOKED_AT + 2]
    assert len(found.withheld) == LOOKED_AT
    assert found.withheld_from(turns[1].turn_id) == 0 and found.withheld_from(turns[-1].turn_id) == 600


def test_an_idle_engine_arranges_by_what_is_left_to_wait_for():
    table = contexts(a=kept(1, 600, again_s=3.0))
    turns = [turn("big", 500)]
    assert arranged(table, turns, {"big": 2}, room=1000, idle_s=2.9).withheld == {"big": 600}
    assert arranged(table, turns, {"big": 2}, room=1000, idle_s=3.0).withheld == {"big": 0}


def test_where_nothing_is_kept_nothing_is_withheld():
    assert NOTHING_KEPT.withheld_from("any") == 0


@pytest.mark.parametrize(
    ("host_tokens", "copies", "spare"), [(0, True, 0), (1000, True, 0), (2000, True, 800), (1000, False, 900)]
)
def test_a_host_tier_spares_what_it_has_beyond_the_gpu(host_tokens, copies, spare):
    assert spare_tokens(1000, host_tokens, copies) == spare


# -- against lists that are walked -------------------------------------------------------------

names = st.sampled_from("abcdefgh")
small = st.integers(0, 50)
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("put"),
            names,
            st.builds(Kept, small, st.integers(0, 40).map(float), small, small, st.integers(1, 9).map(float)),
        ),
        st.tuples(st.sampled_from(["asks", "drop"]), names, st.none()),
        st.tuples(st.just("lose"), names, small),
        st.tuples(st.just("due"), st.none(), st.integers(0, 40)),
    ),
    max_size=300,
)


class Walked:
    """The same of plain tables."""

    def __init__(self):
        self.inside: dict[str, Kept] = {}
        self.back: dict[str, int] = {}

    def do(self, step, name, value):
        if step == "put":
            self.back.pop(name, None)
            self.inside[name] = value
        elif step == "asks" and name in self.inside:
            self.back[name] = self.inside.pop(name).tokens
        elif step == "drop":
            self.inside.pop(name, None)
            self.back.pop(name, None)
        elif step == "lose":
            if name in self.inside:
                one = self.inside[name]
                self.inside[name] = one._replace(tokens=max(0, one.tokens - value))
            if name in self.back:
                self.back[name] = max(0, self.back[name] - value)
        elif step == "due":
            over = sorted((one.until_s, name) for name, one in self.inside.items() if one.until_s <= value)
            self.inside = {name: one for name, one in self.inside.items() if one.until_s > value}
            return [name for _, name in over]
        return None

    def ahead_of(self, rank, idle_s):
        ahead = [one for one in self.inside.values() if rank is None or one.rank <= rank]
        if idle_s > 0:
            ahead = [one for one in ahead if one.again_s > idle_s]
            shared = ahead
        else:
            # A running sum cannot tell whose prefix it is: that of all counts.
            shared = self.inside.values()
        return sum(one.tokens for one in ahead) + (max(one.shared_tokens for one in shared) if ahead else 0)


@settings(deadline=None)
@given(steps=steps, rank=st.none() | small, idle_s=st.sampled_from([0.0, 1.0, 5.0]))
def test_after_any_steps_it_says_what_walking_all_would(steps, rank, idle_s):
    table, walked = KeptContexts(), Walked()
    for step, name, value in steps:
        expected = walked.do(step, name, value)
        if step == "due":
            assert table.due(value) == expected
        else:
            getattr(table, step)(*([name] if value is None else [name, value]))
        assert table.ahead_of(rank, idle_s) == walked.ahead_of(rank, idle_s)
    assert len(table) == len(walked.inside)
    assert [table.own_tokens(name) for name in "abcdefgh"] == [walked.back.get(name, 0) for name in "abcdefgh"]


def test_what_is_remembered_of_ends_of_time_is_bounded():
    table = KeptContexts()
    for i in range(10_000):
        table.put("a", kept(1, 100, until_s=1000.0 + i))
    assert len(table._until) <= 2 * 1 + 64
    assert table.due(11_000.0) == ["a"]
