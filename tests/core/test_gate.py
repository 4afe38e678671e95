"""The gate's bookkeeping, without asyncio: events in, turns out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mars_sglang.core.admission.footprint import FootprintAdmission
from mars_sglang.core.gate import MAX_PAUSED, Gate, PoolFacts
from mars_sglang.core.policy import admission_policy
from mars_sglang.core.program import HUMAN, Answer, Program
from mars_sglang.core.views import AdmissionDecision, ProgramHistory, TurnOutcome

OUTPUT = 100


def gate(capacity: int = 10_000) -> Gate:
    return Gate(admission_policy("footprint"), PoolFacts(capacity))


def answer(context_tokens: int, cached_tokens: int | None = None, tools: tuple[str, ...] = ("bash",)) -> Answer:
    """That leaves a context of this size."""
    return Answer(context_tokens - OUTPUT, OUTPUT, cached_tokens, tools)


def decide(g: Gate, now_s: float) -> list[str]:
    """Turns that pass."""
    return list(g.decide(now_s).passed)


class Told(FootprintAdmission):
    """Remembers what it was told."""

    def __init__(self):
        super().__init__()
        self.log: list[tuple] = []

    def observe_pause(self, program, seconds):
        super().observe_pause(program, seconds)
        self.log.append(("pause", program.program, seconds))

    def observe_turn(self, turn, now_s):
        super().observe_turn(turn, now_s)
        self.log.append(("turn", turn, now_s))

    def observe_over(self, program, said, now_s):
        super().observe_over(program, said, now_s)
        self.log.append(("over", program.program, said, now_s))


def told_gate(capacity: int = 10_000) -> tuple[Gate, list[tuple]]:
    policy = Told()
    return Gate(policy, PoolFacts(capacity)), policy.log


# -- who passes --------------------------------------------------------------------------------


def test_a_decision_tells_who_got_a_place_after_what_wait_and_who_gave_one_up():
    g = gate()
    g.submit("a", "a1", 3000, 0.0)
    assert g.decide(0.0).admitted == (("a", 0.0),)
    g.submit("b", "b1", 8000, 0.5)
    assert not g.decide(0.6)
    # 12,000 overfill the pool: a steps aside, and b's 8000 and 1200 for its growth fit under 9500.
    g.finish("a", "a1", 1.0, answer(12_000))
    decision = g.decide(2.0)
    assert (decision.paused, decision.admitted, decision.passed) == (("a",), (("b", 1.5),), ("b1",))
    assert decision and not g.decide(2.5)


def test_an_ended_program_gives_up_its_place_unless_it_is_at_work():
    g = gate()
    g.submit("a", "a1", 3000, 0.0)
    assert not g.end("a", 0.0, said=True), "its turn waits"
    g.decide(0.0)
    assert not g.end("a", 0.5, said=True), "its turn runs"
    g.finish("a", "a1", 1.0, answer(3100))
    assert g.end("a", 2.0, said=True)
    assert not g.end("a", 2.0, said=True) and not g.end("unknown", 2.0, said=True)
    assert g.snapshot().admitted == 0


def test_a_first_turn_waits_for_a_ticket_and_a_continuation_passes():
    g = gate()
    assert not g.submit("a", "a1", 3000, 0.0)
    assert decide(g, 0.0) == ["a1"]
    g.finish("a", "a1", 1.0, answer(3200))
    assert g.submit("a", "a2", 3400, 1.5)


def test_requests_without_an_id_pass_and_their_load_counts():
    g = gate()
    g.submit("a", "a1", 2000, 0.0)
    assert decide(g, 0.0) == ["a1"]  # 3200 with its growth
    assert g.submit(None, "x", 4000, 0.1)
    g.submit("b", "b1", 2000, 0.2)  # would fit beside a, but not beside both
    assert decide(g, 0.2) == []
    assert (g.pool_view().anonymous_tokens, g.pool_view().referenced_tokens) == (4000, 6000)
    g.finish(None, "x", 1.0)
    assert decide(g, 1.0) == ["b1"]


def test_a_turn_that_passed_as_nobodys_ends_as_nobodys_though_it_names_its_program():
    g = gate()
    g.submit(None, "x", 4000, 0.0)
    g.finish("a", "x", 1.0, answer(4100))
    assert g.pool_view().anonymous_tokens == 0 and g.programs.get("a") is None


def test_a_client_that_goes_away_at_the_gate_or_behind_it_gives_its_place_back():
    g = gate()
    g.submit("a", "a1", 8000, 0.0)
    assert decide(g, 0.0) == ["a1"]
    g.submit("b", "b1", 8000, 0.1)
    g.submit("c", "c1", 8000, 0.2)
    assert decide(g, 0.2) == []
    g.finish("b", "b1", 0.3)  # gone while it waited
    g.finish("a", "a1", 0.4)  # gone while it ran, before any turn of it ended
    assert decide(g, 0.4) == ["c1"]
    assert g.snapshot().waiting == 0


def test_a_paused_program_waits_and_resumes_ahead_of_newcomers():
    g = gate(20_000)
    for name, at in (("a", 0.0), ("b", 0.1)):
        g.submit(name, name + "1", 3000, at)
    assert decide(g, 0.2) == ["a1", "b1"]
    g.finish("a", "a1", 1.0, answer(15_000))
    g.finish("b", "b1", 1.1, answer(15_000))
    assert decide(g, 1.1) == [] and list(g.paused()) == ["b"]
    assert not g.submit("new", "n1", 1000, 1.2)
    assert not g.submit("b", "b2", 15_500, 1.3)
    g.finish("a", "a1", 1.4)
    assert g.submit("a", "a2", 15_100, 1.5)
    g.finish("a", "a2", 2.0, answer(15_200), last=True)
    assert decide(g, 2.0)[0] == "b2"
    assert list(g.paused()) == []


def test_the_last_turn_frees_the_place_at_once():
    g = gate()
    g.submit("a", "a1", 8000, 0.0)
    decide(g, 0.0)
    g.submit("b", "b1", 8000, 0.1)
    g.finish("a", "a1", 1.0, answer(8100), last=True)
    assert decide(g, 1.0) == ["b1"]


def test_a_turn_that_passed_unasked_gives_its_program_a_place():
    g = gate()
    g.submit("a", "a1", 8000, 0.0)
    g.decide(0.0)
    assert g.submit("b", "b1", 8000, 1.0, passed=True)
    assert (g.snapshot().admitted, g.snapshot().waiting) == (2, 0)
    # With work in flight it cannot be paused, so nothing fits until it ends.
    g.submit("c", "c1", 500, 1.1)
    assert decide(g, 1.1) == []


def test_a_turn_that_passed_unasked_brings_a_paused_program_and_its_held_turns_back():
    g = gate(20_000)
    for name, at in (("a", 0.0), ("b", 0.1)):
        g.submit(name, name + "1", 3000, at)
    g.decide(0.1)
    for name in "ab":
        g.finish(name, name + "1", 1.0, answer(15_000))
    g.decide(1.0)
    assert list(g.paused()) == ["b"] and not g.submit("b", "b2", 15_100, 2.0)
    assert g.submit("b", "b3", 15_200, 3.0, passed=True)
    assert list(g.paused()) == [] and not g.waiting
    assert list(g.programs.get("b").in_flight) == ["b2", "b3"] and not g.programs.get("b").held


def test_a_held_turn_that_was_let_go_has_a_place_for_its_program():
    g = gate()
    g.submit("a", "a1", 8000, 0.0)
    g.decide(0.0)
    g.submit("b", "b1", 8000, 0.5)
    g.let_go("b", 2.0)
    g.let_go("a", 2.0)
    g.let_go("unknown", 2.0)
    assert not g.waiting and g.snapshot().admitted == 2
    assert g.submit("b", "b2", 8000, 2.5), "a turn beside it passes"


def test_a_policy_can_neither_pause_what_is_at_work_nor_admit_what_does_not_wait():
    class Wild(FootprintAdmission):
        def decide(self, admitted, waiting, pool, now_s):
            return AdmissionDecision(pause=("a", "x"), admit=("a", "x", "b", "b"))

    g = Gate(Wild(), PoolFacts(10_000))
    g.submit("a", "a1", 100, 0.0, passed=True)
    g.submit("b", "b1", 100, 0.0)
    decision = g.decide(0.0)
    assert (decision.paused, decision.passed) == ((), ("b1",))


# -- what the policy is shown ------------------------------------------------------------------


class Looks(FootprintAdmission):
    """Keeps what it was shown last."""

    def decide(self, admitted, waiting, pool, now_s):
        self.shown = {p.program: p for p in (*admitted, *waiting)}
        self.pool = pool
        return super().decide(admitted, waiting, pool, now_s)


def shown(g: Gate, now_s: float) -> dict:
    g.decide(now_s)
    return g.policy.shown


def test_a_view_is_the_same_object_until_something_happens_to_its_program():
    g = Gate(Looks(), PoolFacts(10_000))
    g.submit("a", "a1", 3000, 0.0)
    g.submit("b", "b1", 3000, 0.0)
    g.submit("c", "c1", 9000, 0.0)
    waiting = shown(g, 0.0)
    first = shown(g, 1.0)
    assert all(first[p] is not waiting[p] for p in "ab"), "they were admitted"
    assert first["c"] is waiting["c"]
    assert shown(g, 2.0) == first and all(g.policy.shown[p] is first[p] for p in "abc")
    g.finish("a", "a1", 3.0, answer(3100))
    later = shown(g, 3.0)
    assert later["a"] is not first["a"] and later["b"] is first["b"] and later["c"] is first["c"]
    assert (later["a"].context_tokens, later["a"].turns, later["a"].idle_s(5.5)) == (3100, 1, 2.5)
    g.resident("a", 700)
    assert shown(g, 4.0)["a"].resident_tokens == 700


def test_what_is_cached_of_a_context_is_as_the_engine_said_since_the_last_turn():
    g = Gate(Looks(), PoolFacts(10_000))
    g.submit("a", "a1", 3000, 0.0)
    assert shown(g, 0.0)["a"].resident_tokens is None
    g.resident("a", 10)  # of a turn in flight it says nothing
    g.resident("unknown", 10)
    g.finish("a", "a1", 1.0, answer(3100))
    assert shown(g, 1.0)["a"].resident_tokens is None
    g.resident("a", 2000)
    assert shown(g, 1.5)["a"].resident_tokens == 2000
    g.submit("a", "a2", 3200, 2.0)
    g.finish("a", "a2", 3.0, answer(3300))
    assert shown(g, 3.0)["a"].resident_tokens is None


def test_a_history_is_the_sums_over_turns_and_a_wait_at_the_gate_is_no_pause():
    g = Gate(Looks(), PoolFacts(20_000))
    g.submit("a", "a1", 3000, 0.0)
    assert shown(g, 0.0)["a"].history is None
    # Passed at 0, answered at 2; 5 s inside a tool.
    g.finish("a", "a1", 2.0, Answer(3000, 200, 0, ("bash", "pytest")))
    g.submit("a", "a2", 3500, 7.0)
    # Answered at 10; inside a tool until 14, but paused: its next turn waits from 14 to 30.
    g.finish("a", "a2", 10.0, Answer(3500, 100, 3200, ("bash",)))
    g.submit("big", "big1", 19_000, 10.0, passed=True)
    assert g.decide(10.0).paused == ("a",)
    assert not g.submit("a", "a3", 4000, 14.0)
    g.finish("big", "big1", 29.0, answer(19_100), last=True)
    assert decide(g, 30.0) == ["a3"]
    g.finish("a", "a3", 31.5, Answer(4000, 50, 0, ()))
    # Output 200 + 100 + 50; contexts of 3200, 3600, 4050; busy 2 + 3 + 1.5; pauses of 5 and 4.
    assert shown(g, 32.0)["a"].history == ProgramHistory(
        turns=3,
        output_tokens=350,
        grown_tokens=850,
        busy_s=6.5,
        pauses=2,
        paused_s=9.0,
        tools=(("bash", 2), (HUMAN, 1), ("pytest", 1)),
    )


def test_what_the_cache_held_before_the_first_turn_is_shared():
    g = Gate(Looks(), PoolFacts(20_000))
    for name, cached in (("a", 1500), ("b", None)):
        g.submit(name, name + "1", 3000, 0.0)
        g.decide(0.0)
        g.finish(name, name + "1", 1.0, answer(3100, cached))
        g.submit(name, name + "2", 3200, 2.0)
        g.finish(name, name + "2", 3.0, answer(3300, 3100))
    views = shown(g, 3.0)
    assert (views["a"].shared_tokens, views["b"].shared_tokens) == (1500, 0)
    assert views["a"].first_tokens == 3000


def test_the_turns_to_come_count_down_from_what_the_client_said_last():
    g = Gate(Looks(), PoolFacts(20_000))
    g.submit("a", "a1", 3000, 0.0, remaining_turns=2)
    assert shown(g, 0.0)["a"].remaining_turns == 3, "this one and two more"
    g.finish("a", "a1", 1.0, answer(3100))
    assert shown(g, 1.0)["a"].remaining_turns == 2
    for number in (2, 3, 4):
        g.submit("a", f"a{number}", 3000, float(number))
        g.finish("a", f"a{number}", number + 0.5, answer(3100))
    assert shown(g, 5.0)["a"].remaining_turns == 0, "more came than it said"
    g.submit("a", "a5", 3000, 5.0, remaining_turns=7)
    g.finish("a", "a5", 6.0, answer(3100))
    assert shown(g, 6.0)["a"].remaining_turns == 7


def test_the_pool_is_shown_with_its_host_tier_and_what_the_engine_learned():
    g = Gate(Looks(), PoolFacts(10_000, host_tokens=40_000, host_copies=False, engine_keeps=True))
    g.prefill_token_s, g.load_token_s = 3e-5, 2e-6
    g.submit("a", "a1", 3000, 0.0, tenant="t")
    g.submit(None, "x", 500, 0.0)
    g.decide(0.0)
    assert shown(g, 0.5)["a"].tenant == "t"
    pool = g.policy.pool
    assert (pool.capacity_tokens, pool.host_tokens, pool.host_copies) == (10_000, 40_000, False) and pool.engine_keeps
    assert (pool.prefill_token_s, pool.load_token_s, pool.tools) == (3e-5, 2e-6, None)
    assert (pool.anonymous_tokens, pool.referenced_tokens) == (500, 3500)
    # Inside a tool it refers to nothing.
    g.finish("a", "a1", 1.0, answer(3100))
    shown(g, 1.0)
    assert g.policy.pool.referenced_tokens == 500


# -- what the policy is told -------------------------------------------------------------------


def test_a_policy_is_told_of_pauses_and_of_answered_turns():
    g, log = told_gate()
    g.submit("a", "a1", 3000, 1.0)
    g.decide(2.0)
    g.finish("a", "a1", 4.0, answer(3200, 0))
    g.submit("a", "a2", 3500, 9.0)
    g.finish("a", "a2", 10.0, answer(3700, 3000))
    assert log == [
        ("turn", TurnOutcome("a", 3100, 0, 0, OUTPUT, None, 2.0), 4.0),
        ("pause", "a", 5.0),
        ("turn", TurnOutcome("a", 3600, 3000, 3200, OUTPUT, 500, 9.0), 10.0),
    ]


def test_a_policy_is_told_nothing_of_a_turn_without_an_answer():
    g, log = told_gate()
    g.submit("a", "a1", 3000, 0.0, passed=True)
    g.finish("a", "a1", 1.0)
    g.finish("a", "unknown", 1.0, answer(3100, 0))
    assert log == []


def test_a_policy_is_told_once_that_a_program_is_over_and_whether_its_client_said_so():
    g, log = told_gate(100_000)
    for name in ("said", "last", "silent", "never"):
        g.submit(name, name, 3000, 0.0)
    g.decide(0.0)
    for name in ("said", "last", "silent"):
        g.finish(name, name, 1.0, answer(3100), last=name == "last")
    g.finish("never", "never", 1.0, last=True)
    for now_s in (2.0, 3.0):
        g.end("said", now_s, said=True)
        g.end("last", now_s, said=False)
        g.end("silent", now_s, said=False)
        g.end("never", now_s, said=False)
    assert log == [("over", "last", True, 1.0), ("over", "said", True, 2.0), ("over", "silent", False, 2.0)]
    # It comes back after all, and is over again.
    g.submit("silent", "again", 3000, 4.0, passed=True)
    g.finish("silent", "again", 5.0, answer(3200), last=True)
    assert log[3:] == [("pause", "silent", 3.0), ("over", "silent", True, 5.0)]


# -- after a restart ---------------------------------------------------------------------------


def restored(program: str, turns: int = 3, context_tokens: int = 4000, **places: bool) -> Program:
    known = Program(program, 1.0, turns, context_tokens, last_end_s=2.0)
    known.place(**{"admitted": False, **places})
    return known


def test_programs_are_taken_over_as_their_server_tells_of_them():
    g = Gate(Looks(), PoolFacts(10_000))
    waits = restored("waits", context_tokens=9000)
    waits.hold("w", 9100, 5.0)
    for known in (restored("inside", admitted=True), restored("paused", paused=True), restored("out"), waits):
        g.restore(known)
    g.restore_anonymous([("x", 300), ("y", 400)])
    g.prefill_token_s = 1.0  # too dear for silence to cost a place
    snapshot = g.snapshot()
    assert (snapshot.admitted, snapshot.waiting, snapshot.paused, snapshot.known) == (1, 1, 1, 4)
    assert snapshot.anonymous_tokens == 700
    assert shown(g, 10.0).keys() == {"inside", "waits"}
    assert g.policy.shown["waits"].waiting_since_s == 5.0 and g.policy.shown["inside"].idle_s(10.0) == 8.0
    assert g.submit("inside", "i2", 4100, 11.0) and not g.submit("paused", "p2", 4100, 11.0)
    assert not g.submit("out", "o2", 4100, 11.0)
    g.restore_anonymous([("y", 400)])
    assert g.snapshot().anonymous_tokens == 400


def test_what_a_server_tells_again_replaces_what_was_known_but_not_what_was_learned():
    g = Gate(Looks(), PoolFacts(10_000))
    g.submit("a", "a1", 3000, 0.0)
    g.decide(0.0)
    g.finish("a", "a1", 1.0, answer(3100, 50))
    before = shown(g, 1.0)["a"]
    g.submit("a", "lost", 3200, 2.0)
    g.restore(restored("a", turns=1, context_tokens=3100, admitted=True))
    after = shown(g, 3.0)["a"]
    assert (after.in_flight, after.idle_since_s) == (0, 2.0)
    assert (after.first_tokens, after.shared_tokens) == (3000, 50)
    assert after.history.output_tokens == before.history.output_tokens
    g.restore(restored("a"))
    assert g.snapshot().admitted == 0 and "a" not in shown(g, 4.0)


def test_programs_that_a_server_tells_no_more_of_are_forgotten_wherever_they_are():
    g = gate(20_000)
    waits = restored("waits")
    waits.hold("w", 9100, 5.0)
    for known in (restored("inside", admitted=True), restored("stays", admitted=True), restored("paused", paused=True)):
        g.restore(known)
    g.restore(waits)
    g.keep_only({"stays"})
    snapshot = g.snapshot()
    assert (snapshot.admitted, snapshot.waiting, snapshot.paused) == (1, 0, 0)
    assert not g.submit("inside", "i2", 4100, 11.0), "it asks like a new one"
    assert decide(g, 11.0) == ["i2"]


# -- bounds ------------------------------------------------------------------------------------


def test_ended_programs_of_unmodified_agents_do_not_fill_the_gate():
    g = gate()
    for i in range(200):
        now_s = 100.0 * i
        g.submit(f"p{i}", "t", 5000, now_s)
        assert decide(g, now_s) == ["t"]
        g.finish(f"p{i}", "t", now_s + 1, answer(5100))
        decide(g, now_s + 1)
    assert g.snapshot().admitted <= 2


def test_what_is_remembered_of_paused_programs_is_bounded():
    g = gate()
    for i in range(2 * MAX_PAUSED):
        now_s = 100.0 * i
        g.submit(f"p{i}", "t", 9000, now_s)
        assert decide(g, now_s) == ["t"]
        g.finish(f"p{i}", "t", now_s + 1, answer(9000))
    paused = list(g.paused())
    assert len(paused) == MAX_PAUSED and paused[-1] == f"p{2 * MAX_PAUSED - 2}"
    for i in range(10):
        g.restore(restored(f"told-{i}", paused=True))
    assert len(list(g.paused())) == MAX_PAUSED and not g.programs.get(paused[0]).paused


@pytest.mark.parametrize(("facts", "message"), [((0,), "capacity_tokens is 0"), ((1, -1), "host_tokens is -1")])
def test_a_pool_without_a_size_is_an_error(facts, message):
    with pytest.raises(ValueError, match=message):
        PoolFacts(*facts)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_turn_passes_in_the_end_and_the_gate_counts_right(data):
    """Any interleaving of arrivals, ends and time: nothing is lost, nothing starves."""
    g = gate(10_000)
    now_s, running, held = 0.0, {}, {}

    def check() -> None:
        inside = [p for p in g.programs.newest() if p.admitted]
        counts = g.snapshot()
        assert counts.admitted == len(inside)
        assert counts.footprint_tokens == sum(g.policy.footprint_tokens(p.view()) for p in inside)
        assert g.pool_view().referenced_tokens == sum(p.view().context_tokens for p in inside if p.in_flight)
        assert set(g.waiting) == set(held.values())
        assert set(g.paused()) == {p.program for p in g.programs.newest() if p.paused}

    for step in range(40):
        now_s += data.draw(st.floats(0, 5))
        if data.draw(st.booleans()) or not running:
            program = f"p{data.draw(st.integers(0, 8))}"
            busy = any(owner == program for owner in [*running.values(), *held.values()])
            if not busy:
                turn_id = f"t{step}"
                if g.submit(program, turn_id, data.draw(st.integers(100, 6000)), now_s):
                    running[turn_id] = program
                else:
                    held[turn_id] = program
        else:
            turn_id = data.draw(st.sampled_from(sorted(running)))
            program = running.pop(turn_id)
            g.finish(program, turn_id, now_s, answer(data.draw(st.integers(100, 6000))))
        for turn_id in decide(g, now_s):
            running[turn_id] = held.pop(turn_id)
        check()
    for _ in range(200):
        if not held:
            break
        now_s += 31.0
        for turn_id, program in list(running.items()):
            g.finish(program, turn_id, now_s, answer(3000))
            del running[turn_id]
        for turn_id in decide(g, now_s):
            running[turn_id] = held.pop(turn_id)
    assert not held
