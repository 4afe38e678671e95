"""The sockets and the loop of the control process. One thread; every queue in it is bounded."""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import get_args

import zmq

from mars_sglang import clock
from mars_sglang.control.sequencer import Consumer, Ordered, Sequencer
from mars_sglang.control.sources import Sources
from mars_sglang.control.state import STALE_S
from mars_sglang.stream import lock
from mars_sglang.stream.address import Address
from mars_sglang.stream.authenticator import Authenticator
from mars_sglang.stream.codec import HEADER, MAX_EVENT_BYTES, Malformed, decode, decode_envelope, encode, kind_of
from mars_sglang.stream.events import AnyEvent, Heartbeat, SourceState, SourceStopped
from mars_sglang.stream.keys import Keys
from mars_sglang.stream.publisher import source_name
from mars_sglang.stream.recording import Recorder, Session

logger = logging.getLogger(__name__)

BEAT_S = 0.5
#: Sources and readers find a new process by a heartbeat, so at first these come faster.
FIRST_BEATS_S, FIRST_S = 0.1, 2.0
#: Above this libzmq closes the connection before it takes the message in.
MAX_MESSAGE_BYTES = 1024 * 1024
#: Messages of one sender that wait here, the rest waits with the sender; and of one slow reader.
RECEIVE_QUEUE, PUBLISH_QUEUE = 1_000, 5_000
#: Events between two looks at the other sockets and the clock.
BATCH = 512
#: Real seconds for which events are left to gather before the next look: each look costs system calls, and under
#: load they come singly. Far below what any reader acts on.
GATHER_S = 0.003
#: Snapshots take at most this share of the time, however many readers ask.
SNAPSHOT_SHARE = 0.2
MAX_ASKERS = 1024
#: An event's own time counts when it is this close to the time of its arrival, in real seconds.
SAME_CLOCK_S = 1.0


class AddressTaken(RuntimeError):
    """Another control process serves this address."""


class Control:
    """One run of the control process."""

    def __init__(
        self,
        address: Address,
        *,
        keys: Keys | None = None,
        record: str | None = None,
        consumers: Sequence[Consumer] = (),
        settings: dict[str, str | int | float | bool | None] | None = None,
    ):
        """Bind the sockets.

        Args:
            record: a file to record every message to; what it holds already is kept.
            settings: what a replay has to know, for the recording's first record.

        Raises:
            AddressError, KeysError: an address that cannot be used, or not without other keys.
            AddressTaken: another control process lives there.
            RecordingError, OSError: the file to record to cannot be used.
        """
        self._speed = clock.speed()
        # Not a time that anything is decided by: the one number that is larger at each start, after a reboot too.
        epoch = time.time_ns() // 1000
        self._order = Sequencer(epoch, source_name("control"), consumers, stale_s=STALE_S * self._speed)
        self._sources = Sources()
        self._counters = dict.fromkeys(("received", "malformed", "unknown", "oversized", "snapshots"), 0)
        self._askers: dict[bytes, list[bytes]] = {}
        self._next_snapshot_s = 0.0
        self._recorder: Recorder | None = None
        self._lock: int | None = None
        self._bound: list[str] = []
        self._authenticator: Authenticator | None = None
        self._context = zmq.Context()
        self._pull = self._socket(zmq.PULL, maxmsgsize=MAX_MESSAGE_BYTES, rcvhwm=RECEIVE_QUEUE)
        self._pub = self._socket(zmq.PUB, maxmsgsize=MAX_MESSAGE_BYTES, sndhwm=PUBLISH_QUEUE)
        self._router = self._socket(zmq.ROUTER, maxmsgsize=1024, rcvhwm=16, sndhwm=4)
        try:
            address.prepare(keys)
            self._take(address)
            if record is not None:
                session = Session(
                    epoch=epoch, source=self._order.source, speed=self._speed, settings=dict(settings or {})
                )
                self._recorder = Recorder(record, session)
            if keys is not None and address.folder is None:
                self._authenticator = Authenticator(self._context, keys)
            for socket, endpoint in (
                (self._pull, address.events),
                (self._pub, address.stream),
                (self._router, address.snapshot),
            ):
                self._bind(address, socket, endpoint, keys)
        except BaseException:
            self.close()
            raise

    @property
    def epoch(self) -> int:
        return self._order.epoch

    def counters(self) -> dict[str, int]:
        """What came in and what became of it, since the start."""
        return {
            **self._counters,
            "ordered": self._order.seq,
            "flooded": self._sources.flooded,
            "gaps": self._sources.gaps,
            "lost": self._sources.lost,
            "sources": len(self._sources),
            "refused": self._authenticator.refused if self._authenticator else 0,
        }

    def run(self, until: Callable[[], bool]) -> None:
        """Serve until ``until()``, which is asked at least at each heartbeat."""
        poller = zmq.Poller()
        for socket in (self._pull, self._router):
            poller.register(socket, zmq.POLLIN)
        if self._authenticator is not None:
            poller.register(self._authenticator.socket, zmq.POLLIN)
        began_s = next_beat_s = self._real_s()
        while not until():
            now_s = self._real_s()
            if now_s >= next_beat_s:
                self._beat(now_s)
                next_beat_s = now_s + (BEAT_S if now_s - began_s > FIRST_S else FIRST_BEATS_S)
            wait_s = next_beat_s - now_s
            if self._askers:
                wait_s = min(wait_s, self._next_snapshot_s - now_s)
            ready = dict(poller.poll(max(0, int(wait_s * 1000) + 1)))
            if self._authenticator is not None and self._authenticator.socket in ready:
                self._authenticator.answer()
            if self._pull in ready and not self._take_events():
                time.sleep(GATHER_S)
            if self._router in ready:
                self._take_requests()
            if self._askers:
                self._answer_requests()

    def close(self) -> None:
        """Unbind, remove the socket files, and finish the recording. A second call does nothing."""
        for socket in (self._pull, self._pub, self._router):
            socket.close(0)
        if self._authenticator is not None:
            self._authenticator.close()
        self._context.term()
        if self._recorder is not None:
            self._recorder.close()
        if self._lock is not None:
            for endpoint in self._bound:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(endpoint.removeprefix("ipc://"))
            os.close(self._lock)
            self._lock = None

    def _real_s(self) -> float:
        return clock.now() / self._speed

    # -- events -----------------------------------------------------------------------------

    def _take_events(self) -> bool:
        """Whether there may be more."""
        for _ in range(BATCH):
            # Asking costs a microsecond where an empty receive costs an exception.
            if not self._pull.getsockopt(zmq.EVENTS) & zmq.POLLIN:
                return False
            frames = self._pull.recv_multipart(zmq.NOBLOCK)
            self._counters["received"] += 1
            if len(frames) != 1:
                self._counters["malformed"] += 1
            elif len(frames[0]) > MAX_EVENT_BYTES:
                self._counters["oversized"] += 1
            else:
                self._take_event(frames[0])
        return True

    def _take_event(self, payload: bytes) -> None:
        try:
            event = decode(payload)
            if not event.source or event.source_seq < 1 or isinstance(event, Heartbeat) or _is_ours(event.source):
                raise Malformed("not from a source")
        except Malformed:
            self._take_unreadable(payload)
            return
        arrived_s = clock.now()
        if not self._sources.accept(event.source, event.source_seq, arrived_s / self._speed):
            return
        if isinstance(event, SourceState):
            self._sources.told(event.source, event.part, event.done)
        elif isinstance(event, SourceStopped):
            self._sources.stopped(event.source)
        # Another host's clock began elsewhere; a NaN is not close to anything.
        close = abs(event.time_s - arrived_s) <= SAME_CLOCK_S * self._speed
        self._publish(self._order.order(event, payload, event.time_s if close else arrived_s))

    def _take_unreadable(self, payload: bytes) -> None:
        try:
            envelope = decode_envelope(payload)
        except Malformed:
            self._counters["malformed"] += 1
            return
        if _is_ours(envelope.source) or envelope.kind in _KINDS:
            self._counters["malformed"] += 1
            return
        # A newer sender's kind: not ours to order, and no loss either.
        self._counters["unknown"] += 1
        self._sources.accept(envelope.source, envelope.source_seq, self._real_s())

    def _publish(self, messages: list[Ordered]) -> None:
        for kind, epoch, seq, topic_seq, at_s, payload, _ in messages:
            self._pub.send_multipart((kind, HEADER.pack(epoch, seq, topic_seq, at_s), payload))
            if self._recorder is not None:
                self._recorder.record(epoch, seq, topic_seq, at_s, payload)

    def _beat(self, now_s: float) -> None:
        at_s = now_s * self._speed
        ask, gone = self._sources.tick(now_s)
        for source in gone:
            logger.info("%s is gone without a word; what only it knew is over", source)
            event = SourceStopped(source=source, time_s=at_s)
            self._publish(self._order.order(event, encode(event), at_s))
        self._publish(self._order.tick(at_s, ask, self.counters()))
        if self._recorder is not None:
            self._recorder.flush()

    # -- snapshots --------------------------------------------------------------------------

    def _take_requests(self) -> None:
        while self._router.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            asker, *frames = self._router.recv_multipart(zmq.NOBLOCK)
            if asker in self._askers or len(self._askers) < MAX_ASKERS:
                self._askers[asker] = frames[:1] if len(frames) > 1 else []

    def _answer_requests(self) -> None:
        began_s = self._real_s()
        if began_s < self._next_snapshot_s:
            return
        payload = encode(self._order.snapshot(clock.now(), self.counters()))
        for asker, delimiter in self._askers.items():
            # A reader that went away or reads nothing asks again if it cares.
            with contextlib.suppress(zmq.ZMQError):
                self._router.send_multipart([asker, *delimiter, payload], zmq.NOBLOCK)
            self._counters["snapshots"] += 1
        self._askers.clear()
        ended_s = self._real_s()
        self._next_snapshot_s = ended_s + (ended_s - began_s) * (1 / SNAPSHOT_SHARE - 1)

    # -- sockets ----------------------------------------------------------------------------

    def _socket(self, kind: int, **options: int) -> zmq.Socket:
        socket = self._context.socket(kind)
        socket.linger = 0
        for name, value in options.items():
            setattr(socket, name, value)
        return socket

    def _take(self, address: Address) -> None:
        try:
            self._lock = lock.take(address, "control")
        except BlockingIOError as error:
            raise AddressTaken(f"another control process serves {address.text}") from error

    def _bind(self, address: Address, socket: zmq.Socket, endpoint: str, keys: Keys | None) -> None:
        try:
            address.bind(socket, endpoint, keys)
            self._bound.append(endpoint)
        except zmq.ZMQError as error:
            if error.errno == zmq.EADDRINUSE:
                raise AddressTaken(f"another process serves {endpoint}") from error
            raise OSError(f"cannot serve {endpoint}: {error.strerror}") from error


#: Kinds that this version reads: an unreadable event of one of them is damaged, not new.
_KINDS = frozenset(kind_of(kind) for kind in get_args(AnyEvent))


def _is_ours(source: str) -> bool:
    return source.startswith("control:")
