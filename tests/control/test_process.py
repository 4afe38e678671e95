"""The real process: what it serves, whom it turns away, how it ends."""

import os
import signal
import subprocess
import sys
from itertools import pairwise

import msgspec
import pytest
import zmq

from mars_sglang import clock
from mars_sglang.control.sources import BURST
from mars_sglang.stream.address import Address
from mars_sglang.stream.codec import MAX_EVENT_BYTES, decode_snapshot, encode
from mars_sglang.stream.events import FirstToken, Heartbeat, ToolStarted, TurnEnded, TurnSubmitted
from mars_sglang.stream.publisher import Publisher
from mars_sglang.stream.recording import Recording, Session
from mars_sglang.stream.snapshot import Snapshot
from mars_sglang.stream.subscriber import Subscriber
from tests.control.running import PATIENCE_S, Reader, RunningControl, eventually


@pytest.fixture
def address(tmp_path):
    return f"ipc://{tmp_path}/s"


@pytest.fixture
def control(address):
    with RunningControl(address) as control:
        yield control


@pytest.fixture
def reader(address, control):
    """A reader of everything that has its first snapshot."""
    with Subscriber(address) as subscriber:
        reader = Reader(subscriber)
        reader.await_one(Snapshot)
        yield reader


def raw_sender(address: str) -> zmq.Socket:
    socket = zmq.Context.instance().socket(zmq.PUSH)
    socket.linger = 1000
    Address.parse(address).connect(socket, Address.parse(address).events, None)
    return socket


def counted(reader: Reader, **counters: int) -> dict[str, int]:
    """The counters of the first heartbeat that has at least these."""
    beat = reader.await_one(Heartbeat, lambda beat: all(beat.counters[name] >= n for name, n in counters.items()))
    return beat.event.counters


def test_events_of_two_sources_come_out_in_one_order(address, reader):
    with Publisher(address, "server") as server, Publisher(address, "sidecar") as sidecar:
        for number in range(50):
            server.publish(TurnSubmitted, program=f"p{number}")
            sidecar.publish(ToolStarted, call=f"c{number}")
        eventually(lambda: len(reader.of(TurnSubmitted, ToolStarted)) == 100)
    seqs = [received.seq for received in reader.of(TurnSubmitted, ToolStarted)]
    assert all(seq < following for seq, following in pairwise(seqs))
    for kind, source in ((TurnSubmitted, server), (ToolStarted, sidecar)):
        assert [r.event.source_seq for r in reader.of(kind)] == list(range(1, 51))
        assert {r.event.source for r in reader.of(kind)} == {source.source}


def test_a_time_of_another_clock_is_replaced_by_the_time_of_arrival(address, reader):
    with Publisher(address, "server") as publisher:
        before = clock.now()
        times = [before - 0.5, before + 1e6, 0.0, float("nan")]
        for time_s in times:
            publisher.publish(FirstToken, time_s=time_s)
        eventually(lambda: len(reader.of(FirstToken)) == 4)
    at = [received.at_s for received in reader.of(FirstToken)]
    assert at[0] == times[0]
    assert all(before <= at_s <= clock.now() for at_s in at[1:])


def test_a_rep_style_request_gets_a_snapshot_too(address, reader):
    socket = zmq.Context.instance().socket(zmq.REQ)
    socket.linger = 0
    Address.parse(address).connect(socket, Address.parse(address).snapshot, None)
    socket.send(b"")
    assert socket.poll(PATIENCE_S * 1000)
    assert decode_snapshot(socket.recv()).epoch == reader.subscriber.epoch
    socket.close()


def test_oversized_and_malformed_messages_are_counted_and_others_go_on_being_served(address, reader):
    bad = raw_sender(address)
    ours = {"source": "control:h:1:a", "source_seq": 1}
    for payload in (
        b"",
        b"\xc1garbage",
        encode(TurnEnded(source="x:h:1:a", source_seq=1, program="p" * 1000)),
        encode(TurnEnded(source="", source_seq=1)),
        encode(TurnEnded(source="x:h:1:a", source_seq=0)),
        encode(TurnEnded(**ours)),
        encode(Heartbeat(source="x:h:1:a", source_seq=1, epoch=99)),
        b"x" * (MAX_EVENT_BYTES + 1),
        msgspec.msgpack.encode({"kind": "of a newer sender", "source": "x:h:1:a", "source_seq": 1}),
    ):
        bad.send(payload)
    bad.send_multipart([b"two", b"frames"])
    bad.send(b"x" * (2 * 1024 * 1024))
    with Publisher(address, "server") as publisher:
        publisher.publish(TurnSubmitted, program="served")
        counters = counted(reader, malformed=8, oversized=1, unknown=1, ordered=len(reader.received) + 1)
        reader.await_one(TurnSubmitted, lambda event: event.program == "served")
        bad.send(encode(FirstToken(source="x:h:1:a", source_seq=2)))
        reader.await_one(FirstToken)
    assert (counters["malformed"], counters["oversized"], counters["unknown"]) == (8, 1, 1)
    assert counters["gaps"] == 0
    assert not reader.of(TurnEnded)
    bad.close()


def test_a_flooding_sender_is_cut_off_and_others_go_on_being_served(address, reader):
    flood = raw_sender(address)
    flood.sndhwm = 0
    with Publisher(address, "server") as publisher:
        for seq in range(1, int(BURST) + 20_001):
            flood.send(encode(FirstToken(source="flood:h:1:a", source_seq=seq)))
            if seq % 5000 == 0:
                publisher.publish(TurnEnded, program=f"p{seq}")
            reader.poll()
            reader.received = reader.of(TurnEnded, Heartbeat, Snapshot)
        last = reader.await_one(Heartbeat, lambda beat: "flood:h:1:a" in beat.resend)
        assert last.event.counters["flooded"] > 0
        counted(reader, received=int(BURST) + 20_008)
        publisher.publish(TurnEnded, program="the last")
        eventually(lambda: publisher.dropped == 0 and reader.poll() and seen(reader, "the last"))
    flood.close(0)


def seen(reader: Reader, program: str) -> bool:
    """Whether a turn's end was heard of, by itself or in a snapshot that came in its place."""
    if any(r.event.program == program for r in reader.of(TurnEnded)):
        return True
    return any(r.event.topics.get("turn_ended", 0) > 8 for r in reader.of(Snapshot))


def test_a_second_process_at_the_address_ends_with_status_3_and_leaves_the_first_alone(address, reader):
    with RunningControl(address) as second:
        status, logged = second.ended()
    assert status == 3
    assert "another control process serves" in logged
    with Publisher(address, "server") as publisher:
        publisher.publish(TurnEnded, program="still here")
        reader.await_one(TurnEnded)


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_good_order_and_removes_the_sockets(address, control, reader, with_signal):
    status, logged = control.stop(with_signal)
    assert status == 0
    assert "stopped: received" in logged
    assert not [name for name in os.listdir(Address.parse(address).folder) if name.endswith(".sock")]


def test_it_ends_when_its_parent_is_gone(address):
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    command = [sys.executable, "-m", "mars_sglang.control", "--address", address, "--parent-pid", str(parent.pid)]
    control = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        with Subscriber(address) as subscriber:
            Reader(subscriber).await_one(Snapshot)
        parent.kill()
        assert control.wait(PATIENCE_S) == 0
    finally:
        control.kill()
        control.wait()
        parent.communicate()


def test_it_does_not_start_for_a_parent_that_is_gone_already(address):
    parent = subprocess.Popen([sys.executable, "-c", ""])
    parent.wait()
    command = [sys.executable, "-m", "mars_sglang.control", "--address", address, "--parent-pid", str(parent.pid)]
    assert subprocess.run(command, stderr=subprocess.DEVNULL, timeout=PATIENCE_S).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--address", "tcp://127.0.0.1:21100"], "mars-sglang keys FOLDER"),
        (["--address", "nonsense"], "accepted are"),
        (["--keys", "/does/not/exist"], "no folder of keys"),
        (["--record", "/does/not/exist/file"], "No such file"),
        (["--record", __file__], "not a recording"),
    ],
)
def test_what_cannot_be_done_as_asked_ends_with_status_2_and_says_why(address, arguments, said):
    command = [sys.executable, "-m", "mars_sglang.control", "--address", address, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_recording_has_every_message_of_every_run_in_order(address, tmp_path):
    file = tmp_path / "recording"
    published = []
    with Subscriber(address) as subscriber, Publisher(address, "server") as publisher:
        for run in range(2):
            with RunningControl(address, "--record", str(file)) as control:
                reader = Reader(subscriber)
                reader.await_one(Snapshot)
                publisher.publish(TurnEnded, program=f"run {run}")
                reader.await_one(TurnEnded)
                control.stop()
                published.append([r for r in reader.poll() if not isinstance(r.event, Snapshot)])
    read = list(Recording(file))
    assert [isinstance(record, Session) for record in read].count(True) == 2
    assert read[0].epoch != read[-1].epoch
    recorded = [(r.epoch, r.seq, r.at_s, r.event) for r in read if not isinstance(r, Session)]
    assert all(tuple(received) in recorded for run in published for received in run)
    assert [seq for epoch, seq, *_ in recorded if epoch == read[0].epoch] == list(
        range(1, 1 + sum(epoch == read[0].epoch for epoch, *_ in recorded))
    )
