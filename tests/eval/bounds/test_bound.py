"""The lower bound is exact where the best schedule can be worked out by hand, and says what binds."""

import pytest

from eval.bounds import lower_bound
from eval.bounds.terms import Terms
from mars_sglang.core.cost_model import CostModel
from mars_sglang.emulation.profiles import list_profiles, load_profile
from tests.eval.builders import program, turn

PROFILE = load_profile("a100-40g-llama-3.1-8b")
COST = CostModel(PROFILE)
CHUNK = PROFILE.chunked_prefill_tokens
K = COST.kv_capacity_tokens


def bound(*programs, arrivals=None, slots=None, host_tier=False):
    arrivals = [0.0] * len(programs) if arrivals is None else arrivals
    return lower_bound(programs, arrivals, PROFILE, slots, 60.0, host_tier=host_tier)


@pytest.mark.parametrize("name", list_profiles())
def test_the_terms_of_a_profile_add_up_to_its_cost_model(name):
    terms = Terms(load_profile(name))
    for batch, context in ((1, 500), (7, 90_000), (200, 150_000)):
        compute_s = batch * terms.token_s + context * terms.position_s
        memory_s = terms.weights_s(batch) + context * terms.kv_s
        expected = terms.cost.decode_step_s(batch, context)
        assert max(compute_s, memory_s) + terms.overhead_s == pytest.approx(expected, rel=1e-9)
    prefill_s = max(terms.compute_s(4000, 9000), terms.weights_s(4000) + 9000 * terms.kv_s) + terms.overhead_s
    assert prefill_s == pytest.approx(terms.cost.prefill_s(4000, 5000), rel=1e-9)
    for compute_share in (0.0, 0.5):
        step_s, token_s = terms.shared_s(256, compute_share)
        assert token_s >= 0
        for tokens in range(1, 257):
            pays_s = terms.overhead_s + (1 - compute_share) * terms.weights_s(tokens)
            assert step_s + tokens * token_s <= pays_s * (1 + 1e-9)


def test_one_program_takes_its_time_alone():
    one = program(turn(1000, 3, tool_s=7.0), turn(1203, 1))
    # The second prompt keeps the first prompt and its answer: 200 new tokens after 1003.
    expected = COST.prefill_s(1000) + COST.decode_step_s(1, 1001) + COST.decode_step_s(1, 1002)
    expected += 7.0 + COST.prefill_s(200, 1003)
    assert bound(one).mean_s == pytest.approx(expected, rel=1e-9)
    assert bound(one).binds == "alone"
    assert bound(one, arrivals=[5.0]).mean_s == pytest.approx(expected, rel=1e-9)


def test_a_rewritten_history_is_prefilled_again_and_a_shared_head_is_nobodys():
    rewritten = program(turn(1000, 1), turn(1200, 1, reuse_tokens=300))
    assert bound(rewritten).mean_s == pytest.approx(COST.prefill_s(1000) + COST.prefill_s(900, 300), rel=1e-9)
    headed = program(turn(1000, 1), tool_tokens=500, system_tokens=100)
    assert bound(headed).mean_s == pytest.approx(COST.prefill_s(400, 600), rel=1e-9)


def test_a_pause_is_cut_and_a_persons_pause_takes_no_slot():
    talk = program(turn(100, 1, tool="human", tool_s=500.0), turn(200, 1))
    assert bound(talk, slots=1).mean_s == pytest.approx(60.0 + COST.prefill_s(100) + COST.prefill_s(99, 101), rel=1e-9)
    many = [program(turn(100, 1, tool="human", tool_s=500.0), turn(200, 1), id=str(i)) for i in range(20)]
    assert bound(*many, slots=1).by_resource["tools"] < 62


def test_prefills_on_a_saturated_gpu_are_served_shortest_first():
    # Whole chunks, bound by arithmetic: nothing can be batched, so the best is the short one, then the long one.
    first, second = COST.prefill_s(CHUNK), COST.prefill_s(CHUNK, CHUNK)
    assert first > 5 * Terms(PROFILE).weights_s(CHUNK)
    short, long = program(turn(CHUNK, 1), id="short"), program(turn(2 * CHUNK, 1), id="long")
    best = (first + (first + first + second)) / 2
    assert bound(short, long).mean_s == pytest.approx(best, rel=1e-6)
    assert bound(short, long).binds == "gpu"


def test_answers_that_fill_the_pool_together_are_bound_by_its_reading():
    # Four contexts of a quarter of the pool decode together; each step reads weights once and all of the KV.
    out, start = 200, K // 4 - 300
    programs = [program(turn(start, out), id=str(i), tool_tokens=0) for i in range(4)]
    prefill_s = _prefill_s(start)
    decode_s = sum(COST.decode_step_s(4, 4 * (start + j)) for j in range(1, out))
    together = 4 * prefill_s + decode_s
    found = bound(*programs)
    assert found.mean_s <= together
    # The last one ends then; those before it may have been done sooner, one by one.
    assert found.mean_s >= 0.55 * together


def test_two_contexts_that_do_not_fit_together_wait_for_each_other():
    start, out = int(0.9 * K), 1000
    alone_s = _prefill_s(start) + sum(COST.decode_step_s(1, start + j) for j in range(1, out))
    found = bound(program(turn(start, out), id="a"), program(turn(start, out), id="b"))
    # One after the other: 1 and 2 times the time alone.
    assert 0.85 * 1.5 * alone_s <= found.mean_s <= 1.5 * alone_s


def test_tools_bind_where_slots_are_few():
    programs = [program(turn(100, 1, tool_s=30.0), turn(200, 1), id=str(i)) for i in range(4)]
    found = bound(*programs, slots=2)
    # On two slots 30, 30, 60 and 60; on one machine of twice the speed 15, 30, 45 and 60, but none before its own 30.
    assert found.mean_s == pytest.approx((30 + 30 + 45 + 60) / 4, rel=0.02)
    assert found.binds == "tools"
    assert bound(*programs).mean_s == pytest.approx(30.0, rel=0.03)


def test_a_host_tier_can_only_lower_the_bound():
    start = int(0.45 * K)
    programs = [
        program(turn(start, 2, tool_s=60.0), turn(start + 100, 2, tool_s=60.0), turn(start + 200, 2), id=str(i))
        for i in range(12)
    ]
    without, with_host = bound(*programs), bound(*programs, host_tier=True)
    assert with_host.mean_s < without.mean_s
    assert without.binds == "memory"


def test_the_bound_of_arrivals_far_apart_is_the_time_alone():
    programs = [program(turn(5000, 20, tool_s=2.0), turn(6000, 20), id=str(i)) for i in range(5)]
    apart = bound(*programs, arrivals=[1000.0 * i for i in range(5)])
    assert apart.mean_s == pytest.approx(bound(programs[0]).mean_s, rel=1e-9)
    assert bound(*programs).mean_s > apart.mean_s


def test_what_cannot_be_bounded_is_refused():
    with pytest.raises(ValueError, match="arrivals_s: 0 for 1 programs; accepted: one each"):
        lower_bound([program()], [], PROFILE, None, 60.0)
    with pytest.raises(ValueError, match=rf"'big' has a context of {K + 1} tokens; accepted: .* \({K}\)"):
        bound(program(turn(K, 1), id="big"))


def _prefill_s(tokens):
    ends = [*range(CHUNK, tokens, CHUNK), tokens]
    return sum(COST.prefill_s(end - begin, begin) for begin, end in zip([0, *ends], ends, strict=False))
