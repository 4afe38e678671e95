"""Any process may be killed in the middle of a flow, and the stream is whole again."""

import threading
import time

import pytest

from mars_sglang.stream.events import (
    FirstToken,
    Heartbeat,
    ProgramState,
    SourceStopped,
    ToolStarted,
    TurnEnded,
    TurnSubmitted,
)
from mars_sglang.stream.keys import Keys, make_keys
from mars_sglang.stream.publisher import Publisher
from mars_sglang.stream.resync import Resync, state_parts
from mars_sglang.stream.snapshot import Snapshot
from mars_sglang.stream.subscriber import Subscriber
from tests.control.running import Reader, RunningControl, eventually


class Server(threading.Thread):
    """A source with a life of its own: publishes all the time, or not, and tells its state when that is due."""

    def __init__(self, address: str, programs: list[str], keys: Keys | None = None, idle: bool = False):
        super().__init__(daemon=True)
        self.publisher = Publisher(address, "server", keys=keys)
        self.source = self.publisher.source
        self.told = 0
        self.failed: BaseException | None = None
        self._beats = Subscriber(address, (Heartbeat,), keys=keys)
        self._resync = Resync(self.source)
        self._programs = programs
        self._idle = idle
        self._over = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            while not self._over.wait(0.005):
                if not self._idle:
                    self.publisher.publish(FirstToken, program=self._programs[0])
                for received in self._beats.receive():
                    if self._resync.due(received.event):
                        self.told += 1
                        states = [ProgramState(program=name, phase="reasoning", turns=3) for name in self._programs]
                        for part in state_parts("server", states):
                            self.publisher.publish(part)
        except BaseException as error:
            self.failed = error

    def vanish(self) -> None:
        """Stop as if killed: without a word."""
        self._over.set()
        self.join(10)
        self.publisher._socket.close(0)
        self._beats.close()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self.join(10)
        self.publisher.close()
        self._beats.close()


def programs_now(address: str, keys: Keys | None = None) -> set[str]:
    """What a new reader is told."""
    with Subscriber(address, (TurnEnded,), keys=keys) as subscriber:
        return {state.program for state in Reader(subscriber).await_one(Snapshot).event.programs}


@pytest.fixture
def address(tmp_path):
    return f"ipc://{tmp_path}/s"


def test_a_killed_control_process_that_starts_again_has_the_whole_state_and_nobody_noticed(address):
    with Subscriber(address, (FirstToken, TurnSubmitted)) as subscriber:
        reader = Reader(subscriber)
        with RunningControl(address) as first, Server(address, ["p", "q"]) as server:
            epoch = reader.await_one(FirstToken).epoch
            eventually(lambda: programs_now(address) == {"p", "q"})
            first.kill()
            reader.poll()
            reader.received.clear()
            told = server.told
            with RunningControl(address):
                eventually(lambda: reader.of(Snapshot))
                heard = time.monotonic()
                eventually(lambda: server.told > told)
                eventually(lambda: programs_now(address) == {"p", "q"})
                whole_s = time.monotonic() - heard
                after = eventually(lambda: [r for r in reader.of(FirstToken) if r.epoch > epoch])
                assert reader.of(Snapshot)[-1].epoch > epoch
                assert [r.seq for r in after] == sorted(r.seq for r in after)
                assert server.failed is None
                # A bound on waiting, not on speed: two heartbeats and a request, and not the 30 s that tests wait.
                assert whole_s < 10.0


def test_events_that_waited_for_a_dead_control_process_reach_the_next(address):
    with Publisher(address, "server") as publisher:
        with RunningControl(address) as first, Subscriber(address) as subscriber:
            Reader(subscriber).await_one(Snapshot)
            publisher.publish(TurnSubmitted, program="before")
            eventually(lambda: programs_now(address) == {"before"})
            first.kill()
        for number in range(100):
            publisher.publish(TurnSubmitted, program=f"during {number}")
        with RunningControl(address):
            eventually(lambda: len(programs_now(address)) >= 90)
        assert publisher.dropped == 0


def test_what_a_killed_server_knew_is_over_when_another_has_taken_its_place(address):
    with RunningControl(address), Subscriber(address) as subscriber:
        reader = Reader(subscriber)
        with Server(address, ["theirs"]) as first:
            eventually(lambda: programs_now(address) == {"theirs"})
            first.vanish()
            with Server(address, ["ours"]) as second:
                over = reader.await_one(SourceStopped)
                assert over.event.source == first.source
                assert programs_now(address) == {"ours"}
                assert second.failed is None


def test_two_living_servers_of_one_host_share_a_control_process(address):
    with RunningControl(address), Server(address, ["one"], idle=True) as first:
        eventually(lambda: programs_now(address) == {"one"})
        with Server(address, ["other"]) as second:
            eventually(lambda: first.told >= 2)
            eventually(lambda: programs_now(address) == {"one", "other"})
            assert first.failed is None and second.failed is None


def test_over_tcp_the_right_keys_get_in_and_wrong_ones_get_neither_in_nor_out(tmp_path):
    address = "tcp://127.0.0.1:21200"
    for folder in ("right", "wrong"):
        make_keys(tmp_path / folder)
    # A stranger who knows the server's public key still has no client's secret.
    (tmp_path / "wrong" / "server.public").write_bytes((tmp_path / "right" / "server.public").read_bytes())
    right, wrong = Keys.load(tmp_path / "right"), Keys.load(tmp_path / "wrong")
    with RunningControl(address, "--keys", right.folder), Subscriber(address, keys=right) as subscriber:
        reader = Reader(subscriber)
        reader.await_one(Snapshot)
        with (
            Publisher(address, "server", keys=right) as known,
            Publisher(address, "server", keys=wrong) as stranger,
            Subscriber(address, keys=wrong) as eavesdropper,
        ):
            stranger.publish(ToolStarted, call="a lie")
            known.publish(TurnEnded, program="p")
            reader.await_one(TurnEnded)
            refused = reader.await_one(Heartbeat, lambda beat: beat.counters["refused"] >= 2)
            assert refused.event.counters["sources"] == 1
            assert eavesdropper.receive() == []
            assert not reader.of(ToolStarted)


def test_over_tcp_a_killed_control_process_that_starts_again_is_found_again(tmp_path):
    address = "tcp://127.0.0.1:21210"
    make_keys(tmp_path / "keys")
    keys = Keys.load(tmp_path / "keys")
    with Server(address, ["p"], keys) as server:
        with RunningControl(address, "--keys", keys.folder) as first:
            eventually(lambda: programs_now(address, keys) == {"p"})
            first.kill()
        with RunningControl(address, "--keys", keys.folder):
            eventually(lambda: programs_now(address, keys) == {"p"})
        assert server.failed is None
