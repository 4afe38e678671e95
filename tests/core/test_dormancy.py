"""From when on a silent program is dormant, by hand."""

from hypothesis import given
from hypothesis import strategies as st

from mars_sglang.core.dormancy import DORMANT_MAX_S, MARGIN, Dormancy, prefill_s
from mars_sglang.core.views import PoolView
from tests.core.admission.programs import in_tool

#: To compute 45,000 tokens takes 45,000 x .0001 x 2 = 9 s, and to hold them for as much 100,000 / 45,000 x 9 = 20 s.
POOL = PoolView(100_000, 0, prefill_token_s=1e-4)
WORTH_S = 20.0


def program(name="p", tokens=45_000):
    return in_tool(name, tokens)._replace(first_tokens=1000)


def told(pauses) -> Dormancy:
    learned = Dormancy()
    for i, seconds in enumerate(pauses):
        learned.observe_pause(program(f"p{i}"), seconds)
    return learned


def test_attention_doubles_the_price_of_a_context_of_45_thousand_tokens():
    assert prefill_s(45_000, POOL) == 9.0


def test_until_pauses_were_seen_a_context_is_held_for_as_long_as_it_is_worth():
    limit_s = Dormancy().limit_s(program(), POOL)
    # Contexts are told apart by 4096 tokens.
    assert abs(limit_s - WORTH_S) < 0.05 * WORTH_S


def test_where_no_end_goes_unsaid_all_pauses_are_waited_for_that_are_worth_it():
    # 90 of 1 s and 10 of 30 s. Up to 30 s: 90 + 300 = 390. Up to 1 s: 100 + 10 x 20 = 300 and less.
    assert told([1.0] * 90 + [30.0] * 10).limit_s(program(), POOL) == 1.0 * MARGIN
    # And 10 of 15 s: up to 15 s 90 + 150 = 240, up to 1 s the same 300.
    assert told([1.0] * 90 + [15.0] * 10).limit_s(program(), POOL) == 15.0 * MARGIN


def test_programs_that_do_not_come_back_shorten_the_wait_until_they_do():
    learned = told([1.0] * 90 + [15.0] * 10)
    gone = [program(f"gone-{i}") for i in range(10)]
    assert all(learned.observe_silence(p) for p in gone) and not any(learned.observe_silence(p) for p in gone)
    for i in range(32):
        learned.observe_pause(program(f"q{i}"), 1.0)
    # 122 of 1 s, 10 of 15 s, 10 endless. Up to 15 s: 122 + 20 x 15 = 422; up to 1 s: 142 + 10 x 20 = 342.
    assert learned.limit_s(program(), POOL) == 1.0 * MARGIN
    for p in gone:
        learned.observe_pause(p, 15.0)
    for i in range(32):
        learned.observe_pause(program(f"r{i}"), 1.0)
    # All came back: 154 of 1 s, 20 of 15 s. Up to 15 s: 154 + 300 = 454; up to 1 s: 174 + 400 = 574.
    assert learned.limit_s(program(), POOL) == 15.0 * MARGIN


def test_an_end_that_somebody_else_noticed_counts_and_one_that_was_said_does_not():
    quiet, said = told([1.0] * 90 + [15.0] * 10), told([1.0] * 90 + [15.0] * 10)
    for i in range(32):
        # Up to 15 s: 90 + 42 x 15 = 720; up to 1 s: 132 + 10 x 20 = 332.
        quiet.observe_over(program(f"gone-{i}"), said=False)
        said.observe_over(program(f"gone-{i}"), said=True)
    assert quiet.limit_s(program(), POOL) == 1.0 * MARGIN and said.limit_s(program(), POOL) == 15.0 * MARGIN


def test_a_pause_a_little_longer_than_all_before_is_waited_for():
    # Tools that run into a limit of ten seconds, and the way back from them.
    learned = told([10.0 + 0.001 * i for i in range(100)])
    assert learned.limit_s(program(), POOL) > 10.5


def test_kinds_of_programs_are_learned_apart():
    learned = told([1.0] * 64)
    other = program()._replace(first_tokens=50_000)
    assert learned.limit_s(program(), POOL) == 1.0 * MARGIN
    assert learned.limit_s(other, POOL) > 19.0


@given(st.lists(st.floats(0.0, 1e5), max_size=200), st.integers(1, 500_000))
def test_a_limit_is_a_little_more_than_one_of_the_pauses_seen_or_the_worth_and_never_over_ten_minutes(pauses, tokens):
    limit_s = told(pauses).limit_s(program(tokens=tokens), POOL)
    assert 0.0 <= limit_s <= DORMANT_MAX_S
    if len(pauses) >= 32:
        assert limit_s in [MARGIN * seconds for seconds in pauses] or limit_s == DORMANT_MAX_S
