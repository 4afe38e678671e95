"""Which data-parallel rank a program's turns go to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars_sglang.core.placement import FORGOTTEN_S, MAX_LEFT, Placement

#: A prefill of so many new tokens takes so many milliseconds, whatever is before them.
MS = 1e-3


def per_token(new_tokens: int, prefix_tokens: int) -> float:
    return new_tokens * MS


def placed(ranks: int = 2, **settings) -> Placement:
    return Placement(ranks, per_token, **settings)


def turn(placement: Placement, turn_id: str, program: str | None, prompt: int, now_s: float = 0.0, answer: int = 0):
    """A whole turn; the rank on which it was."""
    rank = placement.place(turn_id, program, prompt, now_s)
    placement.answering(turn_id)
    placement.end(turn_id, prompt + answer, now_s)
    return rank


def test_new_programs_go_where_the_fewest_tokens_are_and_to_the_lowest_number_among_equals():
    placement = placed(3)
    assert [turn(placement, "1", "a", 900), turn(placement, "2", "b", 500), turn(placement, "3", "c", 600)] == [0, 1, 2]
    # 900, 500, 600: the next two are on rank 1 and, that being 1000 then, on rank 2.
    assert [turn(placement, "4", "d", 500), turn(placement, "5", "e", 10)] == [1, 2]
    assert [placement.load_tokens(rank) for rank in range(3)] == [900, 1000, 610]


def test_a_turn_under_way_counts_with_its_context_and_until_its_first_token_with_its_work():
    placement = placed()
    placement.place("1", "a", 100, 0.0)
    assert placement.load_tokens(0) == 200 and placement.wait_s(0) == pytest.approx(0.1)
    placement.answering("1")
    assert placement.load_tokens(0) == 100 and placement.wait_s(0) == 0
    placement.end("1", 130, 0.0)
    assert placement.load_tokens(0) == 130


def test_a_continuation_finds_its_context_on_its_rank_and_only_what_is_new_is_work():
    placement = placed()
    turn(placement, "1", "a", 1000, answer=50)
    assert placement.place("2", "a", 1250, 0.0) == 0
    assert placement.wait_s(0) == pytest.approx(0.2)
    assert placement.load_tokens(0) == 1250 + 200


def test_a_continuation_moves_once_waiting_costs_more_than_computing_its_context_again():
    placement = placed()
    turn(placement, "1", "a", 1000)
    assert placement.place("2", "b", 400, 0.0) == 1
    # On rank 0 are 1390 ms of prefill, on rank 1 400 ms; what a would have to compute again takes 1000 ms.
    placement.place("3", None, 1390, 0.0, chosen=0)
    assert placement.place("4", "a", 1100, 0.0) == 0
    placement.end("4", 1100, 0.0)
    # 1510 ms, and the context grew to 1100.
    placement.place("5", None, 120, 0.0, chosen=0)
    assert placement.place("6", "a", 1200, 0.0) == 1
    assert placement.report()["moves"] == 1
    assert list(placement.left(0)) == ["a"] and not placement.left(1)
    # All of it is work there.
    assert placement.wait_s(1) == pytest.approx(0.4 + 1.2)
    assert placement.load_tokens(0) == 1510


def test_who_comes_back_to_a_rank_is_no_longer_gone_from_it():
    placement = placed()
    turn(placement, "1", "a", 10)
    placement.place("2", "a", 20, 0.0, chosen=1)
    assert list(placement.left(0)) == ["a"]
    placement.place("3", "a", 30, 0.0, chosen=0)
    assert not placement.left(0) and list(placement.left(1)) == ["a"]


def test_a_rank_that_the_client_chose_is_taken_and_the_program_stays_there():
    placement = placed()
    assert placement.place("1", "a", 100, 0.0, chosen=1) == 1
    placement.end("1", 100, 0.0)
    assert placement.place("2", "a", 200, 0.0) == 1


@pytest.mark.parametrize("chosen", [-1, 2])
def test_a_rank_that_there_is_not_is_for_the_host_to_refuse(chosen):
    placement = placed()
    assert placement.place("1", "a", 100, 0.0, chosen=chosen) is None
    placement.end("1", 100, 0.0)
    assert placement.report() == {"programs": [0, 0], "load_tokens": [0, 0], "moves": 0}


def test_a_request_of_no_program_is_left_to_the_host():
    placement = placed()
    assert placement.place("1", None, 100, 0.0) is None
    placement.end("1", 100, 0.0)
    assert [placement.load_tokens(rank) for rank in (0, 1)] == [0, 0]


def test_a_program_that_is_over_or_silent_for_long_is_load_no_more():
    placement = placed()
    turn(placement, "1", "a", 500)
    turn(placement, "2", "b", 100, now_s=1.0)
    placement.forget("b")
    placement.forget("never seen")
    assert turn(placement, "3", "c", 50, now_s=FORGOTTEN_S - 0.5) == 1
    assert placement.load_tokens(0) == 500
    assert turn(placement, "4", "d", 10, now_s=FORGOTTEN_S) == 0
    assert placement.load_tokens(0) == 10


def test_a_turn_longer_than_a_program_is_remembered_leaves_it_where_its_kv_is():
    placement = placed()
    turn(placement, "1", "other", 10)
    placement.place("2", "a", 100, 0.0)
    placement.answering("2")
    turn(placement, "3", "b", 1, now_s=FORGOTTEN_S)
    placement.end("2", 150, FORGOTTEN_S)
    assert placement.place("4", "a", 200, FORGOTTEN_S) == 1


def test_what_is_remembered_is_bounded():
    placement = placed(max_placed=4)
    for i in range(MAX_LEFT + 50):
        placement.place(f"{i}", f"p{i}", 10, 0.0, chosen=0)
        placement.place(f"{i}+", f"p{i}", 10, 0.0, chosen=1)
        placement.end(f"{i}", 10, 0.0)
        placement.end(f"{i}+", 10, 0.0)
    assert sum(placement.report()["programs"]) == 4
    assert len(placement.left(0)) == MAX_LEFT
    assert [placement.load_tokens(rank) for rank in (0, 1)] == [0, 40]


def test_there_is_at_least_one_rank():
    with pytest.raises(ValueError, match="ranks is 0; it has to be 1 or more"):
        placed(0)


_STEP = st.tuples(
    st.sampled_from(["place", "answering", "end", "forget"]),
    st.integers(0, 7),
    st.integers(1, 5000),
    st.sampled_from([None, None, None, 0, 1, 2]),
)


def run(steps, ranks: int = 3) -> tuple[Placement, list[int | None]]:
    """Turn ``i`` is of program ``i % 4``; what was placed ends only once."""
    placement, under_way, ranks_given = placed(ranks), set(), []
    for at, (what, i, tokens, chosen) in enumerate(steps):
        match what:
            case "place" if i not in under_way:
                under_way.add(i)
                ranks_given.append(placement.place(f"t{i}", f"p{i % 4}", tokens, float(at), chosen))
            case "answering":
                placement.answering(f"t{i}")
            case "end":
                under_way.discard(i)
                placement.end(f"t{i}", tokens, float(at))
            case "forget":
                placement.forget(f"p{i % 4}")
    for i in under_way:
        placement.end(f"t{i}", 0, float(len(steps)))
    return placement, ranks_given


@given(st.lists(_STEP, max_size=60))
def test_equal_histories_are_placed_equally_and_leave_nothing_behind(steps):
    placement, given_ranks = run(steps)
    assert given_ranks == run(steps)[1]
    assert all(rank in range(3) for rank in given_ranks)
    assert [placement.wait_s(rank) for rank in range(3)] == [0, 0, 0]
    for i in range(4):
        placement.forget(f"p{i}")
    assert [placement.load_tokens(rank) for rank in range(3)] == [0, 0, 0]


@given(
    waits=st.lists(st.integers(0, 50_000), min_size=2, max_size=5),
    context=st.integers(1, 50_000),
    home=st.integers(0, 4),
    more=st.integers(0, 5000),
)
def test_a_continuation_leaves_only_a_rank_that_is_behind_by_more_than_its_context(waits, context, home, more):
    home %= len(waits)
    placement = placed(len(waits))
    placement.place("first", "a", context, 0.0, chosen=home)
    placement.end("first", context, 0.0)
    for rank, tokens in enumerate(waits):
        placement.place(f"load {rank}", None, tokens, 0.0, chosen=rank)
    rank = placement.place("second", "a", context + more, 0.0)
    behind = waits[home] - min(waits)
    # At exactly its context the sums of floats may say either.
    if behind < context:
        assert rank == home
    elif behind > context:
        assert rank == waits.index(min(waits))
    placement.end("second", context + more, 0.0)
    # Where it is now is no longer worth leaving, were nothing else to come.
    if behind != context:
        assert placement.place("third", "a", context + more, 0.0) == rank


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3000)), max_size=40),
    st.integers(2, 4),
)
def test_with_nothing_else_under_way_no_program_ever_moves(turns, ranks):
    placement, homes = placed(ranks), {}
    for i, (program, tokens) in enumerate(turns):
        rank = turn(placement, f"t{i}", f"p{program}", tokens)
        assert homes.setdefault(program, rank) == rank
    assert placement.report()["moves"] == 0
