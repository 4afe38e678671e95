"""The gate on an event loop: who waits, for what, and what happens when nobody answers."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars_sglang.core.gate import MAX_PAUSED
from mars_sglang.engine import admission_gate
from mars_sglang.engine.admission_gate import AWAY_S, MAX_LATE, AdmissionGate, TurnAborted
from mars_sglang.engine.refusals import AdmissionRefused
from mars_sglang.stream.events import AdmissionTicket, ProgramState


class Standing:
    """A gate, and what it said and heard."""

    def __init__(self, **settings):
        self.silence_s = 0.0
        self.let_go: list[tuple[str, str, str]] = []
        self.passed: list[str] = []
        """Turns in the order in which they went on."""
        self.gate = AdmissionGate(
            lambda: self.silence_s, lambda *told: self.let_go.append(told), **({"max_waiting": 100} | settings)
        )

    async def turn(self, program: str, turn_id: str, **asked) -> asyncio.Task | None:
        """A turn at the gate; None where it did not have to wait."""
        if not self.gate.holds(program):
            return None

        async def wait():
            await self.gate.wait(program, turn_id, **asked)
            self.passed.append(turn_id)

        task = asyncio.create_task(wait())
        await settled()
        return task

    def say(self, decision: str, program: str) -> None:
        self.gate.hear(AdmissionTicket(program=program, decision=decision))


async def settled() -> None:
    """Whatever can go on has gone on."""
    for _ in range(6):
        await asyncio.sleep(0)


async def nobody_there() -> bool:
    return True


def admitted(gate: AdmissionGate, *programs: str) -> None:
    for program in programs:
        gate.hear(AdmissionTicket(program=program, decision="admitted"))


# -- tickets


def test_a_turn_waits_until_its_program_is_admitted_and_no_other():
    async def scenario():
        standing = Standing()
        task = await standing.turn("a", "a1")
        standing.say("waiting", "a")
        standing.say("admitted", "b")
        await settled()
        assert not task.done() and standing.gate.waiting == 1
        standing.say("admitted", "a")
        await asyncio.wait_for(task, 5)
        assert standing.gate.waiting == 0 and not standing.let_go

    asyncio.run(scenario())


def test_one_ticket_lets_all_turns_of_its_program_pass_and_those_to_come():
    async def scenario():
        standing = Standing()
        tasks = [await standing.turn("a", f"a{i}") for i in range(3)]
        standing.say("admitted", "a")
        await asyncio.wait_for(asyncio.gather(*tasks), 5)
        assert standing.passed == ["a0", "a1", "a2"]
        assert await standing.turn("a", "a4") is None, "a continuation asks nobody"
        assert standing.gate.counters.unasked == 0

    asyncio.run(scenario())


def test_a_turn_without_a_program_never_waits():
    standing = Standing()
    assert not standing.gate.holds(None)


def test_a_paused_program_waits_again_and_keeps_its_kv_first_to_go_until_it_is_resumed():
    async def scenario():
        standing = Standing()
        admitted(standing.gate, "a", "b")
        standing.say("paused", "b")
        standing.say("paused", "a")
        assert standing.gate.paused() == ("b", "a") and not standing.gate.has_place("a")
        task = await standing.turn("a", "a2")
        assert standing.gate.is_paused("a"), "asking alone changes nothing"
        standing.say("resumed", "a")
        await asyncio.wait_for(task, 5)
        assert standing.gate.paused() == ("b",) and standing.gate.has_place("a")

    asyncio.run(scenario())


@pytest.mark.parametrize("before", ["admitted", "paused"])
def test_a_released_program_is_as_one_never_seen(before):
    standing = Standing()
    standing.say(before, "a")
    standing.say("released", "a")
    assert not standing.gate.has_place("a") and not standing.gate.is_paused("a")
    assert standing.gate.holds("a")


def test_after_lost_tickets_a_snapshot_admits_pauses_and_changes_nothing_else():
    async def scenario():
        standing = Standing()
        admitted(standing.gate, "kept", "gone-quiet")
        waiting = [await standing.turn(name, f"{name}1") for name in ("in", "out")]
        standing.gate.hear_all(
            [
                ProgramState(program="in", admission="admitted", phase="held"),
                ProgramState(program="out", admission="waiting", phase="held"),
                ProgramState(program="gone-quiet", admission="paused", phase="acting"),
            ]
        )
        await asyncio.wait_for(waiting[0], 5)
        assert not waiting[1].done()
        assert standing.gate.has_place("kept") and standing.gate.paused() == ("gone-quiet",)
        standing.gate.abort(None)
        await asyncio.wait(waiting)

    asyncio.run(scenario())


# -- going away


def test_a_cancelled_wait_leaves_nothing_behind():
    async def scenario():
        standing = Standing()
        task = await standing.turn("a", "a1")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert standing.gate.waiting == 0
        standing.say("admitted", "a")  # said before it was known

    asyncio.run(scenario())


def test_a_client_that_disconnects_while_it_waits_is_noticed():
    async def scenario():
        standing = Standing()
        task = await standing.turn("a", "a1", is_disconnected=nobody_there)
        with pytest.raises(TurnAborted, match="went away"):
            await asyncio.wait_for(task, 5)
        assert standing.gate.waiting == 0

    asyncio.run(scenario())


def test_an_abort_reaches_one_waiting_turn_or_all():
    async def scenario():
        standing = Standing()
        tasks = [await standing.turn("a", f"a{i}") for i in range(3)]
        assert standing.gate.abort("a1") and not standing.gate.abort("unknown")
        with pytest.raises(TurnAborted, match="aborted"):
            await tasks[1]
        assert not tasks[0].done()
        assert standing.gate.abort(None)
        await asyncio.wait(tasks)
        assert all(isinstance(task.exception(), TurnAborted) for task in tasks)
        assert not standing.gate.abort(None), "nobody is left"

    asyncio.run(scenario())


# -- refusals


@pytest.mark.parametrize(("client_s", "server_s"), [(0.05, None), (None, 0.05), (0.05, 60.0), (60.0, 0.05)])
def test_the_earlier_of_two_deadlines_ends_a_wait_with_503(client_s, server_s):
    async def scenario():
        standing = Standing(max_wait_s=server_s)
        began = time.monotonic()
        task = await standing.turn("a", "a1", deadline_s=client_s)
        with pytest.raises(AdmissionRefused, match=r"not admitted within 0\.\d s") as refused:
            await asyncio.wait_for(task, 5)
        assert time.monotonic() - began >= 0.05
        assert refused.value.status_code == 503 and refused.value.retry_after_s >= 1
        assert standing.gate.counters.refused == {429: 0, 503: 1} and standing.gate.waiting == 0

    asyncio.run(scenario())


def test_no_more_than_so_many_turns_wait_and_one_more_is_429():
    async def scenario():
        standing = Standing(max_waiting=2)
        waiting = [await standing.turn("a", f"a{i}") for i in range(2)]
        with pytest.raises(AdmissionRefused, match="2 turns wait for admission already") as refused:
            await (await standing.turn("b", "b1"))
        assert refused.value.status_code == 429 and refused.value.retry_after_s >= 1
        standing.say("admitted", "a")
        await asyncio.gather(*waiting)
        task = await standing.turn("b", "b1")
        assert not task.done(), "there is room again"
        task.cancel()

    asyncio.run(scenario())


def test_a_refused_client_is_told_to_come_again_after_the_mean_wait(monkeypatch):
    monkeypatch.setattr(admission_gate, "_WAIT_WEIGHT", 1.0)

    async def scenario():
        standing = Standing(max_waiting=1)
        task = await standing.turn("a", "a1")
        await asyncio.sleep(1.2)
        standing.say("admitted", "a")
        await task
        blocking = await standing.turn("b", "b1")
        with pytest.raises(AdmissionRefused) as refused:
            await (await standing.turn("c", "c1"))
        assert 1.2 <= refused.value.retry_after_s < 5
        blocking.cancel()

    asyncio.run(scenario())


# -- nobody answers


def test_nobody_waits_before_the_control_process_was_first_heard_of():
    standing = Standing()
    standing.silence_s = float("inf")
    assert not standing.gate.holds("a") and standing.gate.has_place("a")
    assert standing.gate.open == "away" and standing.gate.counters.unasked == 1


def test_when_it_falls_silent_what_waits_goes_in_its_order_and_keeps_its_place():
    async def scenario():
        standing = Standing()
        tasks = [await standing.turn(name, f"{name}1") for name in "cab"]
        standing.silence_s = AWAY_S - 0.1
        standing.gate.check()
        await settled()
        assert not standing.passed, "two heartbeats may be late"
        standing.silence_s = AWAY_S + 0.1
        standing.gate.check()
        await asyncio.wait_for(asyncio.gather(*tasks), 5)
        assert standing.passed == ["c1", "a1", "b1"]
        assert standing.let_go == [("c1", "c", "away"), ("a1", "a", "away"), ("b1", "b", "away")]
        assert await standing.turn("d", "d1") is None
        standing.silence_s = 0.0
        standing.gate.check()
        assert [await standing.turn(name, f"{name}2") for name in "abcd"] == [None] * 4, "their places survive"
        task = await standing.turn("e", "e1")
        assert not task.done(), "it is asked again"
        assert standing.gate.counters.let_go["away"] == 3 and standing.gate.counters.unasked == 1
        task.cancel()

    asyncio.run(scenario())


def test_a_new_control_process_finds_nobody_waiting():
    async def scenario():
        standing = Standing()
        tasks = [await standing.turn(name, f"{name}1") for name in "ba"]
        standing.gate.restarted()
        await asyncio.wait_for(asyncio.gather(*tasks), 5)
        assert standing.passed == ["b1", "a1"] and standing.gate.counters.let_go["restarted"] == 2
        assert standing.gate.open is None

    asyncio.run(scenario())


@pytest.fixture
def hurried(monkeypatch):
    """A gate that loses its patience soon."""
    for name, seconds in (("STUCK_S", 0.05), ("ANSWER_S", 0.02), ("FIRST_OPEN_S", 0.1), ("LONGEST_OPEN_S", 0.25)):
        monkeypatch.setattr(admission_gate, name, seconds)


def test_one_answer_that_does_not_come_opens_the_gate_for_a_while(hurried):
    async def scenario():
        standing = Standing()
        answered, unanswered = await standing.turn("a", "a1"), await standing.turn("b", "b1")
        standing.say("waiting", "a")
        standing.gate.check()
        assert standing.gate.open is None
        await asyncio.sleep(0.07)
        standing.gate.check()
        await asyncio.wait_for(asyncio.gather(answered, unanswered), 5)
        assert standing.passed == ["a1", "b1"] and standing.gate.counters.let_go["slow"] == 2
        assert standing.gate.open == "slow" and await standing.turn("c", "c1") is None
        await asyncio.sleep(0.12)
        task = await standing.turn("d", "d1")
        assert standing.gate.open is None and not task.done()
        task.cancel()

    asyncio.run(scenario())


def test_a_turn_that_was_told_to_wait_waits_for_as_long_as_it_takes(hurried):
    async def scenario():
        standing = Standing()
        task = await standing.turn("a", "a1")
        standing.say("waiting", "a")
        await asyncio.sleep(0.1)
        standing.gate.check()
        await settled()
        assert not task.done() and standing.gate.open is None
        task.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize(("late", "opens"), [(MAX_LATE, "slow"), (MAX_LATE - 1, None)])
def test_so_many_late_answers_in_a_row_open_it_and_one_in_time_does_not(late, opens):
    async def scenario():
        standing = Standing()
        tasks = [await standing.turn(f"p{i}", f"t{i}") for i in range(late)]
        await asyncio.sleep(0.06)  # more than ANSWER_S
        standing.gate.check()
        tasks += [await standing.turn(f"p{i}", f"t{i}") for i in range(late, MAX_LATE)]
        for i in range(MAX_LATE):
            standing.say("waiting", f"p{i}")
        standing.gate.check()
        assert standing.gate.open == opens and standing.gate.counters.late == late
        standing.gate.abort(None)
        await asyncio.wait(tasks)

    asyncio.run(scenario())


def test_an_answer_that_this_process_was_too_busy_to_hear_is_not_late():
    async def scenario():
        standing = Standing()
        task = await standing.turn("a", "a1")
        time.sleep(0.06)  # the loop stands still
        standing.say("admitted", "a")
        standing.gate.check()
        await task
        assert standing.gate.counters.late == 0

    asyncio.run(scenario())


def test_a_control_process_that_stays_slow_is_asked_less_and_less_often(hurried):
    async def scenario():
        standing, open_s = Standing(), []
        for i in range(4):
            task = await standing.turn(f"p{i}", f"t{i}")
            await asyncio.sleep(0.06)
            began = time.monotonic()
            standing.gate.check()
            await task
            while standing.gate.open:
                await asyncio.sleep(0.005)
            open_s.append(time.monotonic() - began)
        assert open_s[0] >= 0.1 and open_s[1] >= 0.2 and open_s[2] >= 0.25 and open_s[3] >= 0.25
        assert standing.gate._open_s == 0.25, "no longer than the longest"
        task = await standing.turn("ok", "ok1")
        standing.say("admitted", "ok")
        await task
        assert standing.gate._open_s == 0.1, "an answer in time"

    asyncio.run(scenario())


def test_a_closed_gate_holds_nobody_ever():
    async def scenario():
        standing = Standing()
        task = await standing.turn("a", "a1")
        standing.gate.close()
        await asyncio.wait_for(task, 5)
        assert not standing.gate.holds("b")

    asyncio.run(scenario())


# -- bounds and laws


def test_tables_are_bounded_and_those_heard_of_least_lately_go(monkeypatch):
    monkeypatch.setattr(admission_gate, "MAX_PROGRAMS", 3)
    standing = Standing()
    admitted(standing.gate, "a", "b", "c", "a", "d")
    assert [name for name in "abcd" if standing.gate.has_place(name)] == ["a", "c", "d"]
    for i in range(MAX_PAUSED + 1):
        standing.say("paused", f"p{i}")
    assert len(standing.gate.paused()) == MAX_PAUSED and standing.gate.paused()[0] == "p1"


PROGRAMS = st.sampled_from("abcd")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("turn"), PROGRAMS),
        st.tuples(st.sampled_from(["waiting", "admitted", "resumed", "paused", "released"]), PROGRAMS),
        st.tuples(st.sampled_from(["abort", "restarted", "away", "back"]), st.none()),
    ),
    max_size=40,
)


@given(STEPS)
def test_whatever_is_said_in_whatever_order_every_turn_goes_on_once_and_no_program_is_in_two_tables(steps):
    async def scenario():
        standing, tasks = Standing(), []
        for number, (step, program) in enumerate(steps):
            match step:
                case "turn":
                    if (task := await standing.turn(program, f"t{number}")) is not None:
                        tasks.append(task)
                case "abort":
                    standing.gate.abort(None)
                case "restarted":
                    standing.gate.restarted()
                case "away" | "back":
                    standing.silence_s = 10.0 if step == "away" else 0.0
                    standing.gate.check()
                case decision:
                    standing.say(decision, program)
            await settled()
            places = {name for name in "abcd" if standing.gate.has_place(name)}
            assert not places & set(standing.gate.paused())
            assert standing.gate.waiting == sum(not task.done() for task in tasks)
        standing.gate.close()
        await settled()
        assert all(task.done() for task in tasks) and standing.gate.waiting == 0
        passed = [task for task in tasks if task.exception() is None]
        assert len(standing.passed) == len(set(standing.passed)) == len(passed)
        assert not standing.gate._turns

    asyncio.run(scenario())
