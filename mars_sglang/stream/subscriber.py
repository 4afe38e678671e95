"""The reading end: events in their one order, and a snapshot wherever some were missed."""

import contextlib
import time
from collections import deque
from collections.abc import Iterable

import zmq

from mars_sglang.stream.address import Address, AddressError
from mars_sglang.stream.codec import HEADER, Malformed, Received, decode, decode_snapshot, kind_of
from mars_sglang.stream.events import Event, Heartbeat
from mars_sglang.stream.keys import Keys

#: Events that may wait for the reader; what comes beyond is a gap, which a snapshot heals.
QUEUE_EVENTS = 5_000
#: First wait for a snapshot, doubled up to the last: real seconds.
SNAPSHOT_TIMEOUT_S = (0.5, 2.0)

_HEARTBEAT = kind_of(Heartbeat).encode()


class Subscriber:
    """Reads the stream without ever blocking. For one thread.

    A reader has missed something when a topic's sequence has a hole, the epoch is new (it is
    at the start), or a heartbeat counts further than what came. It then asks for a snapshot,
    holds back what comes meanwhile, and goes on from the snapshot's place in the order.
    A reader of heartbeats alone has nothing to miss and never asks.
    """

    def __init__(self, address: Address | str, kinds: Iterable[type[Event]] = (), *, keys: Keys | None = None):
        """Connect to where the control process is or will be.

        Args:
            kinds: the event types to read; none for all.

        Raises:
            AddressError, KeysError: an address that cannot be used, or not without other keys.
        """
        self.gaps = 0
        """Times that something was missed, the start of a new epoch included."""
        self.snapshots = 0
        self.malformed = 0
        """Messages that could not be read: damaged, or of a kind that a newer control process added."""
        self._address = Address.parse(address) if isinstance(address, str) else address
        self._keys = keys
        self._topics = frozenset(kind_of(kind).encode() for kind in kinds)
        self._whole = self._topics != {_HEARTBEAT}
        self._epoch: int | None = None
        self._seq = 0
        self._last: dict[bytes, int] = {}
        self._held: deque[tuple[bytes, bytes, bytes]] = deque(maxlen=QUEUE_EVENTS)
        self._ready: deque[Received] = deque()
        self._asking: zmq.Socket | None = None
        self._asked_at = 0.0
        self._patience_s = SNAPSHOT_TIMEOUT_S[0]
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.rcvhwm = QUEUE_EVENTS
        self._socket.linger = 0
        for topic in self._topics | {_HEARTBEAT} if self._topics else {b""}:
            self._socket.subscribe(topic)
        try:
            self._address.connect(self._socket, self._address.stream, keys)
        except Exception:
            self._socket.close(0)
            raise

    @property
    def socket(self) -> zmq.Socket:
        """The stream's socket, to wait on beside others. Readable does not mean that an event is ready, nor the other
        way round."""
        return self._socket

    @property
    def epoch(self) -> int | None:
        """Of the control process heard last; None before the first."""
        return self._epoch

    def receive(self, limit: int = 256) -> list[Received]:
        """What came since the last call, at most ``limit`` of it; never blocks."""
        if self._socket is None:
            return []
        if self._asking is not None:
            self._take_snapshot()
        # EVENTS costs a microsecond where an empty recv costs an exception.
        budget = limit
        while budget and len(self._ready) < limit and self._socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            budget -= 1
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
            if len(frames) != 3 or len(frames[1]) != HEADER.size:
                self.malformed += 1
            elif frames[0] == _HEARTBEAT:
                self._accept_heartbeat(*frames[1:])
            elif self._asking is None:
                self._accept(*frames)
            else:
                self._hold(*frames)
        if not self._ready:
            return []
        return [self._ready.popleft() for _ in range(min(limit, len(self._ready)))]

    def wait(self, timeout_s: float) -> bool:
        """Block until something may have come, at most ``timeout_s`` real seconds. For scripts."""
        if self._ready:
            return True
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        if self._asking is not None:
            poller.register(self._asking, zmq.POLLIN)
            timeout_s = min(timeout_s, max(0.0, self._asked_at + self._patience_s - time.monotonic()))
        return bool(poller.poll(max(0, int(timeout_s * 1000))))

    def close(self) -> None:
        """A second call does nothing."""
        if self._socket is not None:
            self._socket.close(0)
            self._socket = None
        self._end_asking()

    def __enter__(self) -> "Subscriber":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    # -- in order ---------------------------------------------------------------------------

    def _accept(self, topic: bytes, header: bytes, payload: bytes) -> None:
        epoch, seq, topic_seq, at_s = HEADER.unpack(header)
        new = epoch != self._epoch
        if not new and seq <= self._seq:
            return  # a snapshot said it already
        if new or topic_seq != self._last.get(topic, 0) + 1:
            self._ask(epoch)
            self._held.append((topic, header, payload))
            return
        self._seq = seq
        self._last[topic] = topic_seq
        try:
            self._ready.append(Received(epoch, seq, at_s, decode(payload)))
        except Malformed:
            self.malformed += 1

    def _accept_heartbeat(self, header: bytes, payload: bytes) -> None:
        # Never held back: it is no part of the state, and a source acts on it at once.
        epoch, seq, _, at_s = HEADER.unpack(header)
        try:
            heartbeat = decode(payload)
        except Malformed:
            self.malformed += 1
            return
        if not self._topics or _HEARTBEAT in self._topics:
            self._ready.append(Received(epoch, seq, at_s, heartbeat))
        if not self._whole:
            self._epoch = epoch
        elif epoch != self._epoch or (self._asking is None and self._is_behind(heartbeat)):
            self._ask(epoch)

    def _is_behind(self, heartbeat: Heartbeat) -> bool:
        wanted = self._topics or {topic.encode() for topic in heartbeat.topics}
        for topic in wanted - {_HEARTBEAT}:
            if heartbeat.topics.get(topic.decode(), 0) > self._last.get(topic, 0):
                return True
        return False

    # -- out of order -----------------------------------------------------------------------

    def _hold(self, topic: bytes, header: bytes, payload: bytes) -> None:
        epoch = HEADER.unpack(header)[0]
        if epoch != self._epoch:
            # The process that was asked is gone; its answer would be of another order.
            self._ask(epoch)
        self._held.append((topic, header, payload))

    def _ask(self, epoch: int) -> None:
        self.gaps += 1
        if epoch != self._epoch:
            self._epoch, self._seq, self._last = epoch, 0, {}
            self._held.clear()
        self._patience_s = SNAPSHOT_TIMEOUT_S[0]
        self._send_request()

    def _send_request(self) -> None:
        self._end_asking()
        self._asking = zmq.Context.instance().socket(zmq.DEALER)
        self._asking.linger = 0
        self._asked_at = time.monotonic()
        # What cannot be asked now is asked again when its time is over.
        with contextlib.suppress(AddressError, zmq.ZMQError):
            self._address.connect(self._asking, self._address.snapshot, self._keys)
            self._asking.send(b"", zmq.NOBLOCK)

    def _end_asking(self) -> None:
        if self._asking is not None:
            self._asking.close(0)
            self._asking = None

    def _take_snapshot(self) -> None:
        if not self._asking.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            if time.monotonic() - self._asked_at > self._patience_s:
                self._patience_s = min(2 * self._patience_s, SNAPSHOT_TIMEOUT_S[1])
                self._send_request()
            return
        try:
            snapshot = decode_snapshot(self._asking.recv_multipart(zmq.NOBLOCK)[-1])
        except Malformed:
            self.malformed += 1
            return
        if snapshot.epoch != self._epoch:
            return  # which of the two is the newer one only the stream can tell
        self._end_asking()
        self.snapshots += 1
        self._seq = snapshot.seq
        self._last = {topic.encode(): seq for topic, seq in snapshot.topics.items()}
        self._ready.append(Received(snapshot.epoch, snapshot.seq, snapshot.at_s, snapshot))
        held, self._held = self._held, deque(maxlen=QUEUE_EVENTS)
        for frames in held:
            self._accept(*frames) if self._asking is None else self._hold(*frames)
