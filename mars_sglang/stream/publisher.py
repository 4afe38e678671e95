"""The sending end: an event goes out if it can at once, and is counted as dropped otherwise."""

import logging
import os
import re
import secrets
import socket as host_names
import time

import msgspec
import zmq

from mars_sglang import clock
from mars_sglang.stream.address import Address
from mars_sglang.stream.codec import MAX_EVENT_BYTES, encode
from mars_sglang.stream.events import Event, SourceStopped
from mars_sglang.stream.keys import Keys

logger = logging.getLogger(__name__)

#: What is still queued at the end gets this long to go out; also bounds the exit of a process.
LINGER_MS = 200
#: Real seconds without a loss after which an episode of losses is over; a queue at its brim flaps.
EPISODE_S = 2.0


def host_name() -> str:
    """This host as names in the stream call it: at most 64 letters, digits, dots, dashes and underscores."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", host_names.gethostname())[:64]


def source_name(role: str) -> str:
    """A name for a sending process, new at each of its starts: ``role:host:pid:nonce``."""
    return f"{role}:{host_name()}:{os.getpid()}:{secrets.token_hex(4)}"


class Publisher:
    """Sends events of one source to the control process, which may be absent, slow, or new. For one thread.

    Publishing never blocks and never raises. Each event takes a number, sent or not, so that
    the control process sees what is missing and asks the source for its state.
    """

    def __init__(self, address: Address | str, role: str, *, keys: Keys | None = None, limit: int = 10_000):
        """Connect to where the control process is or will be.

        Args:
            role: what kind of process this is: ``server``, ``engine``, ``sidecar``, ...
            limit: events that may wait for the control process.

        Raises:
            AddressError, KeysError: an address that cannot be used, or not without other keys.
            ValueError: a role that is not lower-case letters, digits and dashes.
        """
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,31}", role):
            raise ValueError(f"role {role!r} is not 1 to 32 lower-case letters, digits and dashes")
        if role == "control":
            raise ValueError("role 'control' is the control process's own; choose another")
        address = Address.parse(address) if isinstance(address, str) else address
        self.source = source_name(role)
        self.sent = 0
        self.dropped = 0
        """Events that did not go out, for the queue was full or they were too large."""
        self._seq = 0
        self._episode = 0
        self._last_loss = 0.0
        self._address = address
        self._socket = zmq.Context.instance().socket(zmq.PUSH)
        self._socket.sndhwm = limit
        self._socket.linger = LINGER_MS
        try:
            address.connect(self._socket, address.events, keys)
        except Exception:
            self._socket.close(0)
            raise

    def publish(self, event: type[Event] | Event, /, **fields) -> None:
        """Send an event: a type with its fields, or one already made.

        Stamps ``source``, ``source_seq`` and, where it is not given, ``time_s``.
        """
        if self._socket is None:
            return
        self._seq += 1
        try:
            stamp = {"source": self.source, "source_seq": self._seq}
            if isinstance(event, type):
                if "time_s" not in fields:
                    fields["time_s"] = clock.now()
                payload = encode(event(**fields, **stamp))
            else:
                if not event.time_s:
                    stamp["time_s"] = clock.now()
                payload = encode(msgspec.structs.replace(event, **fields, **stamp))
            if len(payload) > MAX_EVENT_BYTES:
                raise ValueError(f"it has {len(payload)} bytes and {MAX_EVENT_BYTES} are allowed")
            self._socket.send(payload, zmq.NOBLOCK)
        except zmq.Again:
            self._lost("nobody takes them and the queue is full")
            return
        except Exception as error:
            # A wrong field is a mistake of ours, and no reason for a request to fail.
            name = event.__name__ if isinstance(event, type) else type(event).__name__
            self._lost(f"{name} could not be sent: {error}")
            return
        self.sent += 1
        if self._episode and time.monotonic() - self._last_loss > EPISODE_S:
            logger.info("stream %s takes events again; %d were dropped", self._address.text, self._episode)
            self._episode = 0

    def _lost(self, reason: str) -> None:
        self.dropped += 1
        self._episode += 1
        self._last_loss = time.monotonic()
        if self._episode == 1:
            logger.warning("events for stream %s are dropped: %s", self._address.text, reason)

    def close(self) -> None:
        """Say that this source stops, and let what is queued go out for a moment. A second call does nothing."""
        if self._socket is None:
            return
        if self._seq:
            self.publish(SourceStopped)
        self._socket.close(LINGER_MS)
        self._socket = None

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(self, *_) -> None:
        self.close()
