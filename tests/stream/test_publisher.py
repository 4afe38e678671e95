"""Publishing never blocks and never raises, whoever listens; what is lost is counted and said once."""

import logging
import os
import time

import pytest
import zmq

from mars_sglang import clock
from mars_sglang.stream import publisher as publisher_module
from mars_sglang.stream.address import Address
from mars_sglang.stream.codec import MAX_EVENT_BYTES, decode
from mars_sglang.stream.events import FirstToken, SourceState, SourceStopped, TurnEnded
from mars_sglang.stream.publisher import Publisher, host_name, source_name


class Listener:
    """The socket that a control process has."""

    def __init__(self, address: str):
        self.socket = zmq.Context.instance().socket(zmq.PULL)
        parsed = Address.parse(address)
        parsed.bind(self.socket, parsed.events, None)

    def hear(self):
        assert self.socket.poll(10_000)
        return decode(self.socket.recv())

    def close(self):
        self.socket.close(0)


@pytest.fixture
def address(tmp_path):
    return f"ipc://{tmp_path}/s"


@pytest.fixture
def listener(address):
    listener = Listener(address)
    yield listener
    listener.close()


def test_an_event_gets_its_source_number_and_time(address, listener):
    with Publisher(address, "server") as publisher:
        before = clock.now()
        publisher.publish(TurnEnded, program="p", prompt_tokens=5)
        publisher.publish(FirstToken(program="p", time_s=3.5), turn="t")
        publisher.publish(FirstToken, time_s=0.0)
        first, second, third = (listener.hear() for _ in range(3))
        assert before <= first.time_s <= clock.now()
        assert first == TurnEnded(
            program="p", prompt_tokens=5, source=publisher.source, source_seq=1, time_s=first.time_s
        )
        assert second == FirstToken(program="p", turn="t", source=publisher.source, source_seq=2, time_s=3.5)
        assert third.time_s == 0.0
        assert (publisher.sent, publisher.dropped) == (3, 0)


def test_two_publishers_are_two_sources_of_their_role(address):
    with Publisher(address, "engine") as one, Publisher(address, "engine") as other:
        assert one.source != other.source
        assert one.source.startswith("engine:") and len(one.source.split(":")) == 4


def test_a_closing_source_says_so_and_takes_nothing_more(address, listener):
    publisher = Publisher(address, "server")
    publisher.publish(FirstToken)
    publisher.close()
    publisher.close()
    publisher.publish(FirstToken)
    assert [type(listener.hear()) for _ in range(2)] == [FirstToken, SourceStopped]
    assert not listener.socket.poll(20)


def test_with_nobody_there_events_are_dropped_counted_and_warned_of_once(address, caplog):
    publisher = Publisher(address, "server", limit=10)
    for _ in range(1000):
        publisher.publish(TurnEnded, program="p")
    assert (publisher.sent, publisher.dropped) == (10, 990)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    publisher.close()


def test_a_listener_that_comes_late_gets_what_waited_and_sees_the_hole(address, caplog, monkeypatch):
    monkeypatch.setattr(publisher_module, "EPISODE_S", 0.0)
    caplog.set_level(logging.INFO)
    publisher = Publisher(address, "server", limit=10)
    for _ in range(15):
        publisher.publish(TurnEnded)
    listener = Listener(address)
    assert [listener.hear().source_seq for _ in range(10)] == list(range(1, 11))
    # ZMQ's own thread tells the sender of the room; until then one more would be dropped.
    time.sleep(0.3)
    publisher.publish(TurnEnded)
    assert listener.hear().source_seq == 16
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "5 were dropped" in caplog.records[-1].getMessage()
    for _ in range(3):
        publisher.publish(TurnEnded)
    assert len(caplog.records) == 2
    publisher.close()
    listener.close()


def test_an_event_that_cannot_be_sent_costs_itself_only(address, listener, caplog):
    with Publisher(address, "server") as publisher:
        publisher.publish(TurnEnded, no_such_field=1)
        publisher.publish(TurnEnded, program=object())
        publisher.publish(SourceState, role="x" * MAX_EVENT_BYTES)
        publisher.publish(TurnEnded, program="p")
        assert listener.hear().source_seq == 4
        assert (publisher.sent, publisher.dropped) == (1, 3)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("role", ["", "control", "Server", "a:b", "r" * 33])
def test_a_role_that_would_make_no_source_name_is_refused(address, role):
    with pytest.raises(ValueError, match="role"):
        Publisher(address, role)


def test_a_source_name_has_its_host_in_letters_that_names_may_have(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "gpu node:7/é" + "x" * 100)
    assert host_name() == "gpu-node-7--" + "x" * 52
    role, host, pid, nonce = source_name("server").split(":")
    assert (role, host, pid, len(nonce)) == ("server", host_name(), str(os.getpid()), 8)
