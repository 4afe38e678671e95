"""A reader gets every event in order, or a snapshot in place of what it missed."""

import pytest

from mars_sglang.stream import subscriber as subscriber_module
from mars_sglang.stream.codec import HEADER, encode
from mars_sglang.stream.events import ExecutorLoad, FirstToken, Heartbeat, ToolStarted, TurnSubmitted
from mars_sglang.stream.snapshot import Snapshot
from mars_sglang.stream.subscriber import Subscriber
from tests.control.running import Reader, eventually
from tests.stream.stage import Stage


@pytest.fixture
def address(tmp_path):
    return f"ipc://{tmp_path}/s"


@pytest.fixture
def stage(address):
    with Stage(address) as stage:
        yield stage


def turn(number: int) -> TurnSubmitted:
    return TurnSubmitted(program="p", turn=str(number), number=number, source="server:h:1:2", source_seq=number + 1)


def whole_reader(stage: Stage, address: str, *kinds: type) -> Reader:
    """A reader that has its first snapshot."""
    reader = Reader(Subscriber(address, kinds))
    stage.await_readers(len({*kinds, Heartbeat}) if kinds else 1)
    stage.beat()
    eventually(lambda: reader.poll() or reader.subscriber._asking)
    stage.answer(stage.take_request())
    reader.await_one(Snapshot)
    return reader


def shown(reader: Reader) -> list:
    return [r.event.number if isinstance(r.event, TurnSubmitted) else type(r.event).__name__ for r in reader.received]


def test_a_new_reader_begins_with_a_snapshot_and_goes_on_in_order(stage, address):
    reader = whole_reader(stage, address, TurnSubmitted)
    for number in range(3):
        stage.say(turn(number))
    eventually(lambda: len(reader.poll()) == 4)
    assert shown(reader) == ["Snapshot", 0, 1, 2]
    assert [r.seq for r in reader.received] == [1, 2, 3, 4]


def test_a_reader_of_few_kinds_gets_those_and_no_gap_from_the_others(stage, address):
    reader = whole_reader(stage, address, TurnSubmitted)
    stage.say(turn(0))
    stage.say(FirstToken())
    stage.beat()
    stage.say(turn(1))
    eventually(lambda: len(reader.poll()) == 3)
    assert shown(reader) == ["Snapshot", 0, 1]
    assert reader.subscriber.gaps == 1


def test_a_hole_is_filled_by_a_snapshot_and_what_came_meanwhile_follows_it(stage, address):
    reader = whole_reader(stage, address, TurnSubmitted)
    stage.say(turn(0))
    stage.say(turn(1), lose=True)
    stage.say(turn(2))
    eventually(lambda: reader.poll() and reader.subscriber._asking)
    request = stage.take_request()
    stage.say(turn(3))
    stage.answer(request)
    stage.say(turn(4))
    eventually(lambda: shown(reader)[-1] == 4 if reader.poll() else False)
    assert shown(reader) == ["Snapshot", 0, "Snapshot", 4]
    snapshot = reader.received[2].event
    assert snapshot.programs[0].turns == 3
    assert (reader.subscriber.gaps, reader.subscriber.snapshots) == (2, 2)


def test_events_after_the_snapshot_that_came_before_it_are_not_lost(stage, address):
    reader = whole_reader(stage, address, TurnSubmitted)
    stage.say(turn(0), lose=True)
    stage.say(turn(1))
    eventually(lambda: reader.poll() and reader.subscriber._asking)
    request = stage.take_request()
    old = encode(stage.order.snapshot(1.0))
    stage.say(turn(2))
    eventually(lambda: reader.poll() and len(reader.subscriber._held) == 2)
    stage._router.send_multipart([*request[:-1], old])
    eventually(lambda: len(reader.poll()) == 3)
    assert shown(reader) == ["Snapshot", "Snapshot", 2]


def test_a_loss_that_nothing_follows_is_found_by_the_heartbeat(stage, address):
    reader = whole_reader(stage, address, TurnSubmitted)
    stage.say(turn(0), lose=True)
    stage.beat()
    eventually(lambda: reader.poll() and reader.subscriber._asking)
    stage.answer(stage.take_request())
    eventually(lambda: len(reader.poll()) == 2)
    assert reader.received[-1].event.programs[0].program == "p"


def test_a_reader_of_everything_finds_a_loss_in_a_kind_that_it_never_heard(stage, address):
    reader = whole_reader(stage, address)
    stage.say(ToolStarted(call="c", source="sidecar:h:1:2"), lose=True)
    stage.beat()
    eventually(lambda: reader.poll() and reader.subscriber._asking)
    stage.answer(stage.take_request())
    eventually(lambda: len(reader.of(Snapshot)) == 2)
    assert reader.of(Snapshot)[1].event.tool_calls[0].call == "c"


def test_a_request_without_an_answer_is_repeated_on_a_new_socket(stage, address, monkeypatch):
    monkeypatch.setattr(subscriber_module, "SNAPSHOT_TIMEOUT_S", (0.02, 0.04))
    reader = Reader(Subscriber(address, (TurnSubmitted,)))
    stage.await_readers(2)
    stage.beat()
    eventually(lambda: reader.poll() or reader.subscriber._asking)
    askers = {stage.take_request()[0]}
    while len(askers) < 3:
        reader.poll()
        if stage._router.poll(1):
            request = stage.take_request()
            askers.add(request[0])
    eventually(lambda: stage.answer(stage.take_request()) or True if stage._router.poll(1) else reader.poll())
    assert shown(reader)[:1] in ([], ["Snapshot"])
    eventually(lambda: reader.poll() or (stage._router.poll(1) and stage.answer(stage.take_request())))
    assert shown(reader) == ["Snapshot"]


def test_a_new_epoch_means_a_new_snapshot_and_nothing_of_the_old(stage, address):
    reader = whole_reader(stage, address, TurnSubmitted)
    stage.say(turn(0))
    eventually(lambda: len(reader.poll()) == 2)
    stage.close()
    with Stage(address, epoch=2) as new:
        new.await_readers(2, reader.poll)
        new.say(turn(7))
        eventually(lambda: reader.poll() and reader.subscriber._asking)
        new.answer(new.take_request())
        eventually(lambda: len(reader.poll()) == 3)
        assert reader.subscriber.epoch == 2
        assert reader.received[-1].event.programs[0].turns == 7


def test_a_heartbeat_is_delivered_at_once_even_while_a_snapshot_is_waited_for(stage, address):
    reader = whole_reader(stage, address, TurnSubmitted, Heartbeat)
    before = len(reader.of(Heartbeat))
    stage.say(turn(0), lose=True)
    stage.beat(resend=("server:h:1:2",))
    stage.beat()
    eventually(lambda: len(reader.of(Heartbeat)) == before + 2)
    assert reader.subscriber._asking is not None


def test_a_reader_of_heartbeats_alone_never_asks(stage, address):
    reader = Reader(Subscriber(address, (Heartbeat,)))
    stage.await_readers(1)
    stage.beat()
    stage.say(turn(0))
    stage.beat()
    eventually(lambda: len(reader.poll()) == 2)
    assert reader.subscriber._asking is None


def test_what_cannot_be_read_is_counted_and_passed_over(stage, address):
    reader = whole_reader(stage, address, ExecutorLoad)
    topic = b"executor_load"
    stage.send_raw(topic)
    stage.send_raw(topic, b"short", b"x")
    place = HEADER.pack(1, stage.order.seq + 1, 1, 0.0)
    stage.order.seq += 1
    stage.order.topics["executor_load"] = 1
    stage.send_raw(topic, place, b"no event")
    stage.say(ExecutorLoad(executor="box"))
    eventually(lambda: len(reader.poll()) == 2)
    assert (reader.subscriber.malformed, reader.subscriber.gaps) == (3, 1)


def test_a_reader_takes_no_more_than_it_is_allowed_to(stage, address):
    reader = whole_reader(stage, address, TurnSubmitted)
    for number in range(10):
        stage.say(turn(number))
    got = eventually(lambda: reader.subscriber.receive(4))
    assert len(got) <= 4
    while len(got) < 10:
        got += eventually(lambda: reader.subscriber.receive(4))
    assert [r.event.number for r in got] == list(range(10))


def test_waiting_returns_when_something_came_and_when_time_is_over(stage, address):
    reader = whole_reader(stage, address, TurnSubmitted)
    assert not reader.subscriber.wait(0.01)
    stage.say(turn(0))
    assert reader.subscriber.wait(10.0)


def test_a_closed_reader_receives_nothing(address):
    reader = Subscriber(address)
    reader.close()
    reader.close()
    assert reader.receive() == []
