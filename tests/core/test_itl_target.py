"""How much prefill running turns leave time for, by hand."""

from pytest import approx

from mars_sglang.core.itl_target import ItlTarget


def test_prefills_have_what_a_decode_step_leaves_of_the_target_and_what_ran_since_the_last():
    target = ItlTarget(0.2)
    assert target.fresh and target.left_s(0.05) == approx(0.15)
    target.prefilled(0.1)
    assert not target.fresh and target.left_s(0.05) == approx(0.05)
    target.prefilled(0.1)
    assert target.left_s(0.05) == 0.0
    target.decoded()
    assert target.fresh and target.left_s(0.05) == approx(0.15)


def test_a_target_shorter_than_a_decode_step_leaves_nothing_and_is_fresh_after_each():
    target = ItlTarget(0.01)
    assert target.left_s(0.05) == 0.0 and target.fresh
