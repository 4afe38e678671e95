"""An end of the stream inside SGLang's processes: what both the server's and the scheduler's need."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import zmq

from mars_sglang.config import StreamConfig
from mars_sglang.stream.address import Address
from mars_sglang.stream.codec import Received
from mars_sglang.stream.events import Event, ExecutorLoad, Heartbeat, PausePredicted, ProgramEnded, SourceState
from mars_sglang.stream.keys import Keys
from mars_sglang.stream.publisher import Publisher
from mars_sglang.stream.resync import Resync
from mars_sglang.stream.snapshot import Snapshot
from mars_sglang.stream.subscriber import Subscriber

#: What others say that serving can use.
HEARD = (ExecutorLoad, PausePredicted, ProgramEnded)

#: Silence of the control process, in real seconds, after which it counts as away: four heartbeats.
AWAY_S = 2.0

#: Programs told again at most when the stream lost something: the ones heard from last.
MAX_TOLD_PROGRAMS = 10_000


#: Messages taken at a time, and times before something else gets a turn.
ROUND, MAX_ROUNDS = 256, 20

#: What is said of a request's id.
MAX_TURN_ID_CHARACTERS = 256


def fit(turn_id: str) -> str:
    """A turn's id made fit to be sent: clients choose theirs freely."""
    if len(turn_id) <= MAX_TURN_ID_CHARACTERS and turn_id.isascii():
        return turn_id
    return turn_id[:MAX_TURN_ID_CHARACTERS].encode(errors="replace").decode()


class StreamEnd:
    """For one thread, which calls :meth:`hear` every few milliseconds.

    Args:
        config: where the stream is.
        role: of this process.
        state: tells what this process knows to be going on, as
            :func:`mars_sglang.stream.resync.state_parts` cuts it.
        kinds: what is heard besides heartbeats.
        restarted: told that the control process is another one than before, and about to be told our state.
    """

    def __init__(
        self,
        config: StreamConfig,
        role: str,
        state: Callable[[], Iterable[SourceState]],
        kinds: tuple[type[Event], ...] = HEARD,
        restarted: Callable[[], None] = lambda: None,
    ):
        address = Address.parse(config.address)
        keys = Keys.load(config.keys) if config.keys else None
        self._state = state
        self._restarted = restarted
        self._told_epoch: int | None = None
        self._publisher = Publisher(address, role, keys=keys)
        self._subscriber = Subscriber(address, (*kinds, Heartbeat), keys=keys)
        self._resync = Resync(self._publisher.source)
        self._heartbeat_at: float | None = None

    def publish(self, event: type[Event] | Event, /, **fields) -> None:
        """As :meth:`Publisher.publish`, with the id of a turn made fit to be sent: clients choose theirs freely."""
        if fields.get("turn") is not None:
            fields["turn"] = fit(fields["turn"])
        self._publisher.publish(event, **fields)

    def hear(self) -> list[Event | Snapshot]:
        """What others said since the last call; a snapshot where some of it was missed, after the loads in it.

        Tells our state again where it was lost.
        """
        heard: list[Event | Snapshot] = []
        for received in self._received():
            match received.event:
                case Heartbeat() as heartbeat:
                    self._heartbeat_at = time.monotonic()
                    if self._resync.due(heartbeat):
                        if self._told_epoch not in (None, heartbeat.epoch):
                            self._restarted()
                        self._told_epoch = heartbeat.epoch
                        self.tell()
                case Snapshot() as snapshot:
                    heard.extend(executor.load for executor in snapshot.executors if not executor.stale)
                    heard.append(snapshot)
                case event:
                    heard.append(event)
        return heard

    def _received(self) -> Iterator[Received]:
        """All that came, as far as a reader that does nothing else gets."""
        for _ in range(MAX_ROUNDS):
            received = self._subscriber.receive(ROUND)
            yield from received
            if len(received) < ROUND:
                return

    def tell(self) -> None:
        """Say all that this process knows."""
        for part in self._state():
            self.publish(part)

    @property
    def source(self) -> str:
        """Our name on the stream."""
        return self._publisher.source

    @property
    def socket(self) -> zmq.Socket:
        """Becomes readable when something may have come."""
        return self._subscriber.socket

    def heard_s(self) -> float:
        """Real seconds since the control process was heard of; infinite before the first time."""
        return float("inf") if self._heartbeat_at is None else time.monotonic() - self._heartbeat_at

    @property
    def connected(self) -> bool:
        """Whether the control process was heard from lately."""
        return self.heard_s() < AWAY_S

    def report(self) -> dict[str, Any]:
        """For a state page."""
        return {
            "connected": self.connected,
            "epoch": self._subscriber.epoch,
            "published": self._publisher.sent,
            "dropped": self._publisher.dropped,
            "gaps": self._subscriber.gaps,
            "snapshots": self._subscriber.snapshots,
        }
