"""Predictions and dormancy, by events alone."""

import msgspec
import pytest

from mars_sglang.control import pauses
from mars_sglang.control.learned import Learned
from mars_sglang.control.pauses import LOOKS_PER_TICK, PROBABILITIES, PauseConsumer
from mars_sglang.control.sequencer import Sequencer
from mars_sglang.stream.codec import encode
from mars_sglang.stream.events import (
    Event,
    ExecutorLoad,
    PausePredicted,
    ProgramEnded,
    ProgramState,
    SourceState,
    ToolUse,
    TurnEnded,
    TurnSubmitted,
)

LS, PYTEST = (ToolUse("shell", "ls"),), (ToolUse("shell", "pytest"),)


class Told:
    """A control process without sockets."""

    def __init__(self, consumer: PauseConsumer | None = None):
        self.consumer = consumer or PauseConsumer()
        self.order = Sequencer(1, "control:test", [self.consumer])
        self.numbers: dict[str, int] = {}

    def tell(self, event: Event, at_s: float, source: str = "server:a") -> list[Event]:
        self.numbers[source] = self.numbers.get(source, 0) + 1
        event = msgspec.structs.replace(event, source=source, source_seq=self.numbers[source], time_s=at_s)
        return [message.event for message in self.order.order(event, encode(event), at_s)[1:]]

    def tick(self, now_s: float) -> list[Event]:
        return [message.event for message in self.order.tick(now_s)[1:]]

    def turn(self, program: str, at_s: float, tools=LS, **fields) -> list[Event]:
        self.tell(TurnSubmitted(program=program, turn=f"{program}-{at_s}"), at_s)
        return self.tell(TurnEnded(program=program, turn=f"{program}-{at_s}", tools=tools, **fields), at_s + 1)

    def pauses(self, tools, seconds: float, count: int, start_s: float = 0.0) -> float:
        """A program whose tool takes this long each time; the time at its end."""
        at_s = start_s
        for _ in range(count):
            self.turn(f"teacher-{tools[0].command}", at_s, tools)
            at_s += 1 + seconds
        self.turn(f"teacher-{tools[0].command}", at_s, tools, last=True)
        return at_s + 1


def median(prediction: PausePredicted) -> float:
    return prediction.quantiles_s[PROBABILITIES.index(0.5)]


def test_what_a_command_took_before_is_what_it_is_expected_to_take():
    told = Told()
    at_s = told.pauses(PYTEST, 20.0, 60, told.pauses(LS, 0.5, 60))
    (fast,), (slow,) = told.turn("a", at_s, LS), told.turn("b", at_s, PYTEST)
    assert 0.4 < median(fast) < 0.6 and fast.key == "shell ls"
    assert 15 < median(slow) < 25 and slow.key == "shell pytest"
    assert fast.turn == f"a-{at_s}" and list(fast.quantiles_s) == sorted(fast.quantiles_s)


def test_of_parallel_calls_the_slowest_is_waited_for():
    told = Told()
    at_s = told.pauses(PYTEST, 20.0, 60, told.pauses(LS, 0.5, 60))
    (both,) = told.turn("a", at_s, LS + PYTEST)
    assert median(both) > 15


def test_a_turn_that_ends_while_another_of_its_program_runs_begins_no_pause():
    told = Told()
    told.tell(TurnSubmitted(program="a", turn="1"), 0.0)
    told.tell(TurnSubmitted(program="a", turn="2"), 0.1)
    assert told.tell(TurnEnded(program="a", turn="1"), 1.0) == []
    assert len(told.tell(TurnEnded(program="a", turn="2"), 2.0)) == 1


def test_a_turn_of_what_may_be_a_mere_chat_begins_no_pause_unless_it_calls_a_tool():
    told = Told()
    for name, tools, predictions in (("chat", (), 0), ("agent", LS, 1)):
        told.tell(TurnSubmitted(program=name, turn=name, gated=False), 0.0)
        assert len(told.tell(TurnEnded(program=name, turn=name, tools=tools), 1.0)) == predictions
    told.tell(TurnSubmitted(program="chat", turn="chat 2"), 2.0)
    assert len(told.tell(TurnEnded(program="chat", turn="chat 2"), 3.0)) == 1


def test_no_pause_follows_the_last_turn():
    assert Told().turn("a", 0.0, last=True) == []


def test_a_silence_that_should_have_ended_long_ago_is_dormant_and_said_once():
    told = Told()
    at_s = told.pauses(LS, 0.5, 200)
    told.turn("a", at_s)
    said = []
    for second in range(1200):
        said += [(second, event) for event in told.tick(at_s + 1 + second)]
    assert [(event.program, event.reason) for _, event in said] == [("a", "dormant")]
    # The published tail of tool times is heavy, and nothing of this server's own speaks against it.
    assert 30 < said[0][0] < 1200


def test_a_program_that_comes_back_is_not_dormant():
    told = Told()
    at_s = told.pauses(LS, 0.5, 200)
    for second in range(0, 400, 2):
        told.turn("a", at_s + second)
        assert told.tick(at_s + second + 1.5) == []


def test_a_program_that_comes_back_from_dormancy_teaches_that_it_does():
    told = Told()
    for round_ in range(40):
        at_s = 10_000.0 * round_
        told.turn("sleeper", at_s, (ToolUse("wait"),))
        for second in range(0, 900, 5):
            told.tick(at_s + second)
    (prediction,) = told.turn("b", at_s + 20_000, (ToolUse("wait"),))
    assert median(prediction) > 5000


def test_of_many_looks_that_are_due_at_once_few_are_taken_at_a_tick_first_due_first():
    told = Told()
    at_s = told.pauses(LS, 0.5, 200)
    names = [f"p{n}" for n in range(2 * LOOKS_PER_TICK + 10)]
    for n, name in enumerate(names):
        told.turn(name, at_s + n)
    # Each has been silent for so long that one look finds it dormant.
    ticks = [[event.program for event in told.tick(at_s + 10_000 + n / 2)] for n in range(4)]
    assert [len(dormant) for dormant in ticks] == [LOOKS_PER_TICK, LOOKS_PER_TICK, 10, 0]
    assert [name for dormant in ticks for name in dormant] == names


def test_a_look_that_waited_is_dropped_when_its_program_is_over_meanwhile():
    told = Told()
    at_s = told.pauses(LS, 0.5, 200)
    names = [f"p{n}" for n in range(LOOKS_PER_TICK + 2)]
    for name in names:
        told.turn(name, at_s)
    assert len(told.tick(at_s + 10_000)) == LOOKS_PER_TICK
    told.tell(ProgramEnded(program=names[-1], reason="deleted"), at_s + 10_000.1)
    assert [event.program for event in told.tick(at_s + 10_000.5)] == [names[-2]]


def test_looks_at_pauses_that_are_over_stand_in_no_others_way_and_are_bounded_too(monkeypatch):
    def silent_at(ticks: int) -> list[int]:
        told = Told()
        at_s = told.pauses(LS, 0.5, 200)
        for n in range(2 * LOOKS_PER_TICK):
            told.turn(f"p{n}", at_s)
            told.turn(f"p{n}", at_s + 2, last=True)
        told.turn("silent", at_s + 3)
        return [n for n in range(ticks) if told.tick(at_s + 10_000 + n / 2)]

    assert silent_at(3) == [0]
    # The teacher's looks are over too: 200 of them before these 256, and the silent one's behind them all.
    monkeypatch.setattr(pauses, "PASSED_PER_TICK", 100)
    assert silent_at(8) == [4]


def test_looks_at_pauses_that_are_over_are_swept_out_when_there_are_many(monkeypatch):
    monkeypatch.setattr(pauses, "MAX_LOOKS", 20)
    told = Told()
    told.turn("silent", 0.0)
    for n in range(100):
        told.turn("busy", 1.0 + n / 100)
    assert len(told.consumer._looks) <= 20
    assert told.tick(1e6) and told.consumer._looks == []


def test_an_ended_program_is_forgotten():
    told = Told()
    told.turn("a", 0.0)
    told.tell(ProgramEnded(program="a", reason="deleted"), 2.0)
    assert all(told.tick(2.0 + 10 * i) == [] for i in range(200))


def test_a_loaded_executor_lengthens_the_prediction():
    told = Told()
    at_s = told.pauses(PYTEST, 20.0, 60)
    (calm,) = told.turn("a", at_s, PYTEST)
    load = ExecutorLoad(executor="host", cores=4.0, run_queue=16.0, slots=4, active=4, queued=7, service_s=20.0)
    told.tell(load, at_s + 5, source="sidecar:h")
    (busy,) = told.turn("b", at_s + 5.1, PYTEST)
    assert median(busy) > 2 * median(calm)
    (stale,) = told.turn("c", at_s + 50, PYTEST)
    assert median(stale) == pytest.approx(median(calm), rel=0.2)


def test_open_pauses_go_on_after_a_restart():
    told = Told()
    known = ProgramState(program="a", phase="acting", since_s=90.0, turns=3, tools=LS)
    told.tell(SourceState(role="server", programs=(known,)), 100.0)
    assert told.consumer.predictor.paces == 0
    told.tell(TurnSubmitted(program="a", turn="4"), 101.0)
    assert told.consumer.predictor.paces == 1


def test_what_was_learned_outlives_the_process(tmp_path, caplog):
    told = Told()
    at_s = told.pauses(PYTEST, 20.0, 60)
    file = tmp_path / "predictions"
    assert Learned(str(file)).load() is None
    Learned(str(file)).save(told.consumer.predictor)
    again = Told(PauseConsumer(Learned(str(file)).load()))
    assert median(again.turn("a", at_s, PYTEST)[0]) == median(told.turn("a", at_s, PYTEST)[0])
    file.write_bytes(b"\x00garbage")
    assert Learned(str(file)).load() is None and "start from nothing" in caplog.text
    Learned(str(tmp_path / "no" / "folder")).save(told.consumer.predictor)
    assert "is not kept" in caplog.text
