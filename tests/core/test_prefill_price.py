"""The price of a prefill, learned from steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars_sglang.core.prefill_price import PrefillPrice

TRUE = PrefillPrice(token_s=2e-4, pair_s=4e-10)


def test_the_price_is_of_new_tokens_and_of_what_they_attend_to():
    # 1000 x 2e-4 + 1000 x (9000 + 500) x 4e-10 = 0.2 + 0.0038
    assert TRUE.seconds(1000, 9000) == pytest.approx(0.2038)


def test_it_comes_to_what_steps_took_with_the_first_steps_counting_most():
    price = PrefillPrice()
    for _ in range(30):
        price = price.learned([(2048, 0), (512, 4096)], TRUE.seconds(2048) + TRUE.seconds(512, 4096))
    assert price.steps == 30
    assert price.seconds(2048) == pytest.approx(TRUE.seconds(2048), rel=0.05)


def test_one_odd_step_among_many_moves_it_little():
    price = PrefillPrice(2e-4, 4e-10, steps=1000)
    assert price.learned([(1000, 0)], 10 * price.seconds(1000)).seconds(1000) < 1.2 * price.seconds(1000)


def test_a_step_without_tokens_or_time_teaches_nothing():
    price = PrefillPrice()
    assert price.learned([], 1.0) is price and price.learned([(10, 0)], 0.0) is price


def test_attention_is_told_from_the_rest_by_steps_with_different_prefixes():
    price = PrefillPrice()
    true = PrefillPrice(token_s=5e-5, pair_s=8e-10)
    for i in range(300):
        rows = [(4096, 8192 * (i % 12))]
        price = price.learned(rows, sum(true.seconds(*row) for row in rows))
    assert price.token_s == pytest.approx(true.token_s, rel=0.1)
    assert price.pair_s == pytest.approx(true.pair_s, rel=0.02)


@given(st.lists(st.tuples(st.integers(1, 10_000), st.integers(0, 10**6), st.floats(1e-6, 1e6)), max_size=60))
def test_both_terms_stay_above_nought_whatever_steps_take(steps):
    price = PrefillPrice()
    for extend, prefix, seconds in steps:
        price = price.learned([(extend, prefix)], seconds)
        assert price.token_s > 0 and price.pair_s > 0


@given(st.floats(1e-6, 1e-3), st.floats(1e-12, 1e-7), st.floats(0.0, 100.0), st.integers(0, 1_000_000))
def test_tokens_that_fit_a_time_take_no_longer_and_one_more_would(token_s, pair_s, seconds, prefix):
    price = PrefillPrice(token_s, pair_s)
    tokens = price.tokens_in(seconds, prefix)
    # Rounding of floats aside.
    assert price.seconds(tokens, prefix) <= seconds * (1 + 1e-9) + 1e-12
    assert price.seconds(tokens + 1, prefix) >= seconds * (1 - 1e-9)
