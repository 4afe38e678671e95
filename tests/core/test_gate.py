"""The gate's bookkeeping, without asyncio: events in, turns out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mars_sglang.core.gate import MAX_PAUSED, Gate
from mars_sglang.core.policy import admission_policy
from mars_sglang.core.program import ProgramTable


def gate(capacity: int = 10_000) -> Gate:
    return Gate(admission_policy("mars"), capacity)


def decide(g: Gate, now_s: float) -> list[str]:
    """Turns that pass; none where there was nothing to decide."""
    decision = g.decide(now_s)
    return [] if decision is None else list(decision.passed)


def test_a_decision_tells_who_got_a_place_after_what_wait_and_who_gave_one_up():
    g = gate()
    g.submit("a", "a1", 3000, 0.0)
    assert g.decide(0.0).admitted == (("a", 0.0),)
    g.submit("b", "b1", 9000, 0.5)
    assert g.decide(0.6).admitted == ()
    g.finish("a", "a1", 1.0, context_tokens=12_000)
    first = g.decide(2.0)
    assert first.paused == ("a",)
    assert g.decide(2.5).admitted == () or first.admitted == (("b", 1.5),)
    assert Gate(admission_policy("mars"), 10).decide(0.0) is None


def test_an_ended_program_gives_up_its_place_unless_it_is_at_work():
    g = gate()
    g.submit("a", "a1", 3000, 0.0)
    assert not g.end("a"), "its turn waits"
    g.decide(0.0)
    assert not g.end("a"), "its turn runs"
    g.finish("a", "a1", 1.0, context_tokens=3100)
    assert g.end("a") and not g.end("a") and not g.end("unknown")
    assert g.snapshot().admitted == 0


def test_a_first_turn_waits_for_a_ticket_and_a_continuation_passes():
    g = gate()
    assert not g.submit("a", "a1", 3000, 0.0)
    assert decide(g, 0.0) == ["a1"]
    g.finish("a", "a1", 1.0, context_tokens=3200)
    assert g.submit("a", "a2", 3400, 1.5)


def test_requests_without_an_id_pass_and_their_load_counts():
    g = gate()
    g.submit("a", "a1", 2000, 0.0)
    assert decide(g, 0.0) == ["a1"]  # 3200 with its growth
    assert g.submit(None, "x", 4000, 0.1)
    g.submit("b", "b1", 2000, 0.2)  # would fit beside a, but not beside both
    assert decide(g, 0.2) == []
    g.finish(None, "x", 1.0)
    assert decide(g, 1.0) == ["b1"]


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
    g.finish("a", "a1", 1.0, context_tokens=15_000)
    g.finish("b", "b1", 1.1, context_tokens=15_000)
    assert decide(g, 1.1) == [] and list(g.paused()) == ["b"]
    assert not g.submit("new", "n1", 1000, 1.2)
    assert not g.submit("b", "b2", 15_500, 1.3)
    g.finish("a", "a1", 1.4)
    assert g.submit("a", "a2", 15_100, 1.5)
    g.finish("a", "a2", 2.0, context_tokens=15_200, last=True)
    assert decide(g, 2.0)[0] == "b2"
    assert list(g.paused()) == []


def test_the_last_turn_frees_the_place_at_once():
    g = gate()
    g.submit("a", "a1", 8000, 0.0)
    decide(g, 0.0)
    g.submit("b", "b1", 8000, 0.1)
    g.finish("a", "a1", 1.0, context_tokens=8100, last=True)
    assert decide(g, 1.0) == ["b1"]


def test_ended_programs_of_unmodified_agents_do_not_fill_the_gate():
    g = gate()
    for i in range(200):
        now_s = 100.0 * i
        g.submit(f"p{i}", "t", 5000, now_s)
        assert decide(g, now_s) == ["t"]
        g.finish(f"p{i}", "t", now_s + 1, context_tokens=5100)
        decide(g, now_s + 1)
    assert g.snapshot().admitted <= 2


def test_what_is_remembered_of_paused_programs_is_bounded():
    g = gate()
    for i in range(2 * MAX_PAUSED):
        now_s = 100.0 * i
        g.submit(f"p{i}", "t", 9000, now_s)
        assert decide(g, now_s) == ["t"]
        g.finish(f"p{i}", "t", now_s + 1, context_tokens=9000)
    paused = list(g.paused())
    assert len(paused) == MAX_PAUSED and paused[-1] == f"p{2 * MAX_PAUSED - 2}"


def test_opening_lets_everything_through_in_order():
    g = gate()
    for i in range(5):
        g.submit(f"p{i}", f"t{i}", 9000, float(i))
    assert g.open() == [f"t{i}" for i in range(5)]


def test_a_pool_without_a_size_is_an_error():
    with pytest.raises(ValueError, match="capacity_tokens is 0"):
        gate(0)


def test_the_program_table_is_bounded_and_forgets_the_stalest():
    table = ProgramTable(max_programs=3)
    for i in range(10):
        table.touch(f"p{i}", float(i))
    assert len(table) == 3 and table.get("p9") and not table.get("p0")
    table.get("p7").in_flight["t"] = 1
    for i in range(10, 20):
        table.touch(f"p{i}", float(i))
    assert table.get("p7") is not None


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_turn_passes_in_the_end(data):
    """Any interleaving of arrivals, ends and time: nothing is lost, nothing starves."""
    g = gate(10_000)
    now_s, running, held = 0.0, {}, {}
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
            g.finish(program, turn_id, now_s, context_tokens=data.draw(st.integers(100, 6000)))
        for turn_id in decide(g, now_s):
            running[turn_id] = held.pop(turn_id)
    for _ in range(200):
        if not held:
            break
        now_s += 31.0
        for turn_id, program in list(running.items()):
            g.finish(program, turn_id, now_s, context_tokens=3000)
            del running[turn_id]
        for turn_id in decide(g, now_s):
            running[turn_id] = held.pop(turn_id)
    assert not held
