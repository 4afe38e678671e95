"""Shares by hand: a pool of 1000 tokens, and a policy that counts what a program holds and fills 950 of them."""

import copy
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mars_sglang.core.admission.fair_share import FULL, GRACE_S, PATIENCE_S, FairShare
from mars_sglang.core.admission.footprint import FITS, FootprintAdmission
from mars_sglang.core.admission.window import WindowAdmission
from mars_sglang.core.gate import Gate, PoolFacts
from mars_sglang.core.policy import admission_policy, admission_policy_names
from mars_sglang.core.program import Answer
from mars_sglang.core.views import AdmissionDecision, PoolView, ProgramView
from tests.core.admission.programs import in_tool, new, returned, working

POOL = PoolView(1000, 0)


class Held(FootprintAdmission):
    """Without growth, so that sums can be worked by hand."""

    def footprint_tokens(self, program: ProgramView) -> int:
        return program.context_tokens


def of(tenant: str, *programs: ProgramView) -> list[ProgramView]:
    return [p._replace(tenant=tenant) for p in programs]


def fair(**weights: float) -> FairShare:
    return FairShare(Held(), weights)


def test_the_poorest_tenant_that_waits_gets_the_room_whoever_came_first():
    # 700 of 950 are in use, all by a. First come first served would give the rest to a.
    inside = of("a", working("a1", 400), working("a2", 300))
    waiting = [*of("a", new("a3", 200, 1.0)), *of("b", new("b1", 200, 2.0))]
    assert Held().decide(inside, waiting, POOL, 3.0).admit == ("a3",)
    assert fair().decide(inside, waiting, POOL, 3.0).admit == ("b1",)


def test_room_that_the_poorest_waits_for_goes_to_nobody_else():
    # b1 does not fit (700 + 300 > 950) and nobody is inside a tool; a3 would fit.
    inside = of("a", working("a1", 400), working("a2", 300))
    waiting = [*of("a", new("a3", 200, 1.0)), *of("b", new("b1", 300, 2.0))]
    assert fair().decide(inside, waiting, POOL, 3.0) == AdmissionDecision()


def test_what_the_others_do_not_need_goes_to_the_one_that_wants_more():
    # a has 700 of 1000, far over its half; b has all that it wants.
    inside = [*of("a", working("a1", 700)), *of("b", working("b1", 50))]
    assert fair().decide(inside, of("a", new("a2", 200, 1.0)), POOL, 1.0).admit == ("a2",)


def test_the_weight_says_who_is_poorer():
    # By tokens b is poorer (300 < 400); with weight 2, a has 200 for each and b 300.
    inside = [*of("a", working("a1", 400)), *of("b", working("b1", 300))]
    waiting = [*of("a", new("a2", 100, 2.0)), *of("b", new("b2", 100, 1.0))]
    assert fair().decide(inside, waiting, POOL, 3.0).admit == ("b2",)
    assert fair(a=2.0).decide(inside, waiting, POOL, 3.0).admit == ("a2",)


def test_a_tenant_starts_no_more_than_its_share_while_another_waits():
    # Both have nothing. a takes 200, 400, and with the third passes its half of 1000; its fourth waits. b, offered
    # at the same time, came too late for the 950 that the policy gave to a, and comes first in the next decision.
    waiting = [*of("a", *(new(f"a{i}", 230, i) for i in range(4))), *of("b", new("b1", 200, 9.0))]
    policy = fair()
    assert policy.decide([], waiting, POOL, 9.0).admit == ("a0", "a1", "a2")
    inside = of("a", *(working(f"a{i}", 230, i) for i in range(3)))
    assert policy.decide(inside, waiting[3:], POOL, 9.0).admit == ("b1",)


def test_tenants_with_nothing_inside_take_turns():
    # One program at a time. a got the first place; when that program is over, b goes first, although a2 came earlier.
    policy = fair()
    waiting = [*of("a", new("a1", 900, 1.0), new("a2", 900, 2.0)), *of("b", new("b1", 900, 3.0))]
    assert policy.decide([], waiting, POOL, 3.0).admit == ("a1",)
    assert policy.decide([], waiting[1:], POOL, 50.0).admit == ("b1",)
    assert policy.decide([], waiting[1:2] + of("b", new("b2", 900, 4.0)), POOL, 90.0).admit == ("a2",)


def test_programs_inside_a_tool_of_a_tenant_over_its_share_make_room_at_once():
    # 900 in use by a, whose share is 450. b1 needs 200; 150 are lacking to 950. a4 came last and is inside a tool.
    inside = of("a", in_tool("a1", 300, 1.0), in_tool("a2", 200, 2.0), working("a3", 200, 3.0), in_tool("a4", 200, 4.0))
    decision = fair().decide(inside, of("b", new("b1", 200, 9.0)), POOL, 9.0)
    assert (decision.pause, decision.admit) == (("a4",), ("b1",))
    # 300 are needed and 250 lacking: a4 is not enough. a2 leaves a 900 - 400 = 500, still over 450.
    decision = fair().decide(inside, of("b", new("b1", 300, 9.0)), POOL, 9.0)
    assert (decision.pause, decision.admit) == (("a4", "a2"), ("b1",))


def test_nobody_is_paused_below_its_share_for_another():
    # b1 lacks 250 - 0 to fit. Only a2 can go: without a1 as well, a would have 150 of its 450.
    inside = of("a", in_tool("a1", 350, 1.0), in_tool("a2", 200, 2.0), working("a3", 350, 3.0))
    decision = fair().decide(inside, of("b", new("b1", 600, 9.0)), POOL, 9.0)
    assert (decision.pause, decision.admit) == (("a2",), ())
    # One program that holds everything stays until it ends.
    assert fair().decide(of("a", in_tool("a1", 900)), of("b", new("b1", 100, 9.0)), POOL, 9.0) == AdmissionDecision()


def test_a_tenant_at_its_share_pauses_nobody():
    inside = [*of("a", in_tool("a1", 250, 1.0), in_tool("a2", 250, 2.0)), *of("b", working("b1", 440))]
    # Shares are 470. b is under its share with 440: a has 500, and without a2 only 250.
    assert fair().decide(inside, of("b", new("b2", 100, 9.0)), POOL, 9.0) == AdmissionDecision()
    inside = [*of("a", in_tool("a1", 235, 1.0), in_tool("a2", 235, 2.0)), *of("b", working("b1", 470))]
    assert fair().decide(inside, of("b", new("b2", 100, 9.0)), POOL, 9.0) == AdmissionDecision()


def test_a_window_that_is_full_gives_way_after_a_while_although_there_is_memory():
    inside = of("a", in_tool("a1", 100, 1.0), in_tool("a2", 100, 2.0))
    waiting = of("b", new("b1", 100, 10.0))
    policy = FairShare(WindowAdmission(2), {})
    assert policy.decide(inside, waiting, POOL, 10.0 + PATIENCE_S - 0.1) == AdmissionDecision()
    decision = policy.decide(inside, waiting, POOL, 10.0 + PATIENCE_S)
    assert (decision.pause, decision.admit) == (("a2",), ("b1",))


def test_growth_that_overfills_the_pool_is_paid_by_those_over_their_share():
    # 1050 > 1000. The policy would pause b1, who came last; a has 900, and pays with its last one inside a tool.
    inside = [
        *of("a", in_tool("a1", 400, 1.0), in_tool("a2", 300, 2.0), working("a3", 200, 3.0)),
        *of("b", in_tool("b1", 150, 9.0)),
    ]
    assert Held().decide(inside, [], POOL, 9.0).pause == ("b1",)
    assert fair().decide(inside, [], POOL, 9.0).pause == ("a2",)


def test_a_silent_program_is_left_to_the_policy():
    silent = in_tool("b1", 150, 9.0, idle_since_s=100.0)
    inside = [*of("a", in_tool("a1", 600, 1.0), in_tool("a2", 300, 2.0)), *of("b", silent)]
    assert fair().decide(inside, [], POOL, 100.0 + GRACE_S - 1).pause == ("a2",)
    assert fair().decide(inside, [], POOL, 100.0 + GRACE_S).pause == Held().decide(inside, [], POOL, 110.0).pause


def test_over_an_engine_that_keeps_contexts_a_tenant_that_wants_little_finds_the_memory_given_away_once():
    # 1300 of 1000 thousands are inside: the engine makes do with it.
    pool = PoolView(1_000_000, 0, prefill_token_s=1e-4, engine_keeps=True)
    inside = of("a", working("a1", 400_000), *(in_tool(f"a{i}", 300_000, float(i)) for i in (2, 3, 4)))
    mars = FairShare(admission_policy("mars"), {})
    more = of("b", *(new(f"b{i}", 300_000, 3.0) for i in (1, 2)))
    # What b wants is more than its half, so it has to wait for its own anyhow.
    assert mars.decide(inside, more, pool, 3.0) == AdmissionDecision(
        admit=("b1", "b2"), reasons={"b1": FITS, "b2": FITS}
    )
    little = of("b", new("b1", 100_000, 3.0))
    decision = mars.decide(inside, little, pool, 3.0)
    assert decision.admit == ("b1",)
    assert set(decision.pause) == {"a3", "a4"}


@pytest.mark.parametrize("weight", [0, -1.0, inf, float("nan")])
def test_a_weight_that_is_not_above_0_is_refused(weight):
    with pytest.raises(ValueError, match="weight of tenant 'a'"):
        FairShare(Held(), {"a": weight})


ADMISSIONS = [name.partition("[")[0].replace(":N", ":3") for name in admission_policy_names()]
TENANTS = st.sampled_from(["", "a", "b", "c"])
WEIGHTS = st.dictionaries(TENANTS, st.sampled_from([0.5, 1.0, 3.0]))


@st.composite
def rounds(draw, tenants=TENANTS):
    """What one policy is asked, one after the other: who is inside, who waits, seconds since the last."""
    asked = []
    for _ in range(draw(st.integers(1, 4))):
        programs = []
        for number in range(draw(st.integers(0, 10))):
            kind = draw(st.sampled_from([working, in_tool, new, returned]))
            tokens, arrived_s = draw(st.integers(1, 600)), draw(st.floats(0, 100))
            programs += of(draw(tenants), kind(f"p{number}", tokens, arrived_s))
        asked.append((
            [p for p in programs if p.waiting_since_s is None],
            [p for p in programs if p.waiting_since_s is not None],
            draw(st.floats(0, 20)),
        ))  # fmt: skip
    return asked


@pytest.mark.parametrize("name", ADMISSIONS)
@settings(max_examples=40, deadline=None)
@given(asked=rounds(), weights=WEIGHTS, shuffle=st.randoms())
def test_whatever_is_wrapped_only_idle_programs_pause_and_somebody_is_always_inside(name, asked, weights, shuffle):
    policy, twin, now_s = FairShare(admission_policy(name), weights), FairShare(admission_policy(name), weights), 100.0
    for admitted, waiting, seconds in asked:
        now_s += seconds
        decision = policy.decide(admitted, waiting, POOL, now_s)
        mixed = copy.copy(admitted), copy.copy(waiting)
        for programs in mixed:
            shuffle.shuffle(programs)
        assert twin.decide(*mixed, POOL, now_s) == decision
        assert set(decision.pause) <= {p.program for p in admitted if not p.in_flight}
        assert set(decision.admit) <= {p.program for p in waiting}
        assert len(set(decision.pause)) == len(decision.pause) and len(set(decision.admit)) == len(decision.admit)
        assert len(decision.pause) < len(admitted) or decision.admit or not waiting


@pytest.mark.parametrize("name", ADMISSIONS)
@settings(max_examples=40, deadline=None)
@given(asked=rounds(), weights=WEIGHTS)
def test_nobody_goes_beyond_its_share_while_a_poorer_tenant_waits(name, asked, weights):
    policy, now_s = FairShare(admission_policy(name), weights), 100.0
    for admitted, waiting, seconds in asked:
        now_s += seconds
        # Learning may change footprints within a decision; here nothing is observed, so they are what they were.
        size = {p.program: policy.footprint_tokens(p) for p in (*admitted, *waiting)}
        used = dict.fromkeys((p.tenant for p in (*admitted, *waiting)), 0)
        for p in admitted:
            used[p.tenant] += size[p.program]
        weight = {tenant: weights.get(tenant, 1.0) for tenant in used}
        before = {tenant: used[tenant] / weight[tenant] for tenant in used}
        decision = policy.decide(admitted, waiting, POOL, now_s)
        tokens = max(POOL.capacity_tokens, sum(used.values()))
        by_id = {p.program: p for p in waiting}
        left = {p.tenant for p in waiting if p.program not in decision.admit}
        for p in admitted:
            if p.program in decision.pause:
                used[p.tenant] -= size[p.program]
        for p in map(by_id.get, decision.admit):
            within = used[p.tenant] < tokens * weight[p.tenant] / sum(weight.values())
            assert within or all(before[p.tenant] <= before[tenant] for tenant in left - {p.tenant})
            used[p.tenant] += size[p.program]


@pytest.mark.parametrize("name", ADMISSIONS)
@settings(max_examples=40, deadline=None)
@given(asked=rounds(tenants=st.just("a")))
def test_with_one_tenant_it_is_the_wrapped_policy(name, asked):
    policy, plain, now_s = FairShare(admission_policy(name), {"a": 3.0}), admission_policy(name), 100.0
    for admitted, waiting, seconds in asked:
        now_s += seconds
        assert policy.decide(admitted, waiting, POOL, now_s) == plain.decide(admitted, waiting, POOL, now_s)


class Refuses(Held):
    """Lets nobody in."""

    def decide(self, admitted, waiting, pool, now_s):
        return AdmissionDecision()


@given(asked=rounds(), weights=WEIGHTS)
def test_a_swap_adds_no_program_and_no_tokens_to_a_full_pool_and_takes_from_nobody_its_share(asked, weights):
    policy, now_s = FairShare(Refuses(), weights), 100.0
    for admitted, waiting, seconds in asked:
        now_s += seconds
        decision = policy.decide(admitted, waiting, POOL, now_s)
        tokens = {p.program: p.context_tokens for p in (*admitted, *waiting)}
        before = sum(p.context_tokens for p in admitted)
        after = before + sum(tokens[p] for p in decision.admit) - sum(tokens[p] for p in decision.pause)
        assert len(decision.admit) <= len(decision.pause)
        assert after <= max(before, FULL * POOL.capacity_tokens)
        tenants = {p.tenant for p in (*admitted, *waiting)}
        whole = sum(weights.get(tenant, 1.0) for tenant in tenants)
        for tenant in {p.tenant for p in admitted if p.program in decision.pause}:
            kept = sum(p.context_tokens for p in admitted if p.tenant == tenant and p.program not in decision.pause)
            assert kept >= before * weights.get(tenant, 1.0) / whole - 1e-6


@settings(max_examples=60, deadline=None)
@given(
    programs=st.lists(st.tuples(TENANTS, st.integers(1, 900), st.integers(1, 4)), min_size=1, max_size=12),
    weights=WEIGHTS,
    random=st.randoms(use_true_random=False),
)
def test_behind_a_gate_every_program_of_every_tenant_comes_to_its_end(programs, weights, random):
    """Each takes its turns in any order with the others'; tools take any time; the gate is asked once a second."""
    gate = Gate(FairShare(FootprintAdmission(), weights), PoolFacts(1000))
    to_go = {f"p{i}": turns for i, (_, _, turns) in enumerate(programs)}
    tenant = {f"p{i}": who for i, (who, _, _) in enumerate(programs)}
    tokens = {f"p{i}": size for i, (_, size, _) in enumerate(programs)}
    outside, engine, now_s = list(to_go), [], 0.0
    for _ in range(1000):
        now_s += 1.0
        if outside and (not engine or random.random() < 0.5):
            program = outside.pop(random.randrange(len(outside)))
            if gate.submit(program, program, tokens[program], now_s, tenant=tenant[program]):
                engine.append(program)
        elif engine:
            program = engine.pop(random.randrange(len(engine)))
            to_go[program] -= 1
            gate.finish(program, program, now_s, Answer(tokens[program], 1), last=not to_go[program])
            if to_go[program]:
                outside.append(program)
        engine += gate.decide(now_s).passed
        if not any(to_go.values()):
            return
    raise AssertionError(f"after {now_s} s turns are left: {to_go}")
