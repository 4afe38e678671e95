"""An end of the stream inside SGLang's processes: what both the server's and the scheduler's need."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from mars_sglang.config import StreamConfig
from mars_sglang.stream.address import Address
from mars_sglang.stream.events import Event, ExecutorLoad, Heartbeat, PausePredicted, ProgramEnded, ProgramState
from mars_sglang.stream.keys import Keys
from mars_sglang.stream.publisher import Publisher
from mars_sglang.stream.resync import Resync, state_parts
from mars_sglang.stream.snapshot import Snapshot
from mars_sglang.stream.subscriber import Subscriber

#: What others say that serving can use.
HEARD = (ExecutorLoad, PausePredicted, ProgramEnded)

#: Silence of the control process, in real seconds, after which it counts as away: four heartbeats.
AWAY_S = 2.0

#: Programs told again at most when the stream lost something: the ones heard from last.
MAX_TOLD_PROGRAMS = 10_000


#: What is said of a request's id.
MAX_TURN_ID_CHARACTERS = 256


class StreamEnd:
    """For one thread, which calls :meth:`hear` every few milliseconds.

    Args:
        config: where the stream is.
        role: of this process.
        state: tells what this process knows to be going on, newest last.
    """

    def __init__(self, config: StreamConfig, role: str, state: Callable[[], Iterable[ProgramState]]):
        address = Address.parse(config.address)
        keys = Keys.load(config.keys) if config.keys else None
        self._role = role
        self._state = state
        self._publisher = Publisher(address, role, keys=keys)
        self._subscriber = Subscriber(address, (*HEARD, Heartbeat), keys=keys)
        self._resync = Resync(self._publisher.source)
        self._heartbeat_at: float | None = None

    def publish(self, event: type[Event] | Event, /, **fields) -> None:
        """As :meth:`Publisher.publish`, with the id of a turn made fit to be sent: clients choose theirs freely."""
        turn = fields.get("turn")
        if turn is not None and (len(turn) > MAX_TURN_ID_CHARACTERS or not turn.isascii()):
            fields["turn"] = turn[:MAX_TURN_ID_CHARACTERS].encode(errors="replace").decode()
        self._publisher.publish(event, **fields)

    def hear(self) -> list[Event]:
        """What others said since the last call, of :data:`HEARD`; tells our state again where it was lost."""
        heard: list[Event] = []
        for received in self._subscriber.receive():
            match received.event:
                case Heartbeat() as heartbeat:
                    self._heartbeat_at = time.monotonic()
                    if self._resync.due(heartbeat):
                        for part in state_parts(self._role, self._state()):
                            self.publish(part)
                case Snapshot() as snapshot:
                    heard.extend(executor.load for executor in snapshot.executors if not executor.stale)
                case event:
                    heard.append(event)
        return heard

    @property
    def connected(self) -> bool:
        """Whether the control process was heard from lately."""
        return self._heartbeat_at is not None and time.monotonic() - self._heartbeat_at < AWAY_S

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
