"""The way from a tool's process to the sidecar: what cannot go at once is dropped, and nothing is ever raised."""

import atexit
import logging
import os
import threading

import msgspec
import zmq

from mars_sglang.stream.address import Address
from mars_sglang.stream.keys import Keys
from mars_sglang.tools.endpoint import endpoint, is_taken
from mars_sglang.tools.messages import Report

logger = logging.getLogger(__name__)

ADDRESS_ENV = "MARS_SGLANG_TOOLS"
KEYS_ENV = "MARS_SGLANG_KEYS"

#: Reports that may wait while the sidecar is away.
_QUEUE = 1000
#: How long the end of a process may wait for its last report to go out.
_LINGER_MS = 200
_RECONNECT_MS, _RECONNECT_MAX_MS = 50, 1000


class Channel:
    """One per process, for all of its threads.

    As long as no sidecar has been there, there is no socket and no thread either.
    """

    def __init__(self, address: str | None = None):
        """Args: address: ``ipc:///FOLDER`` or ``tcp://HOST:PORT``; None asks the environment, then the default."""
        self.sent = 0
        self.dropped = 0
        self._text = address or os.environ.get(ADDRESS_ENV)
        self._lock = threading.RLock()
        self._address: Address | None = None
        self._context: zmq.Context | None = None
        self._socket: zmq.Socket | None = None
        self._broken = False

    def send(self, report: Report) -> None:
        try:
            with self._lock:
                if self._broken or (self._socket is None and not self._open()):
                    self.dropped += 1
                    return
                self._socket.send(msgspec.msgpack.encode(report), zmq.NOBLOCK)
                self.sent += 1
        except zmq.Again:
            self.dropped += 1
        except Exception as error:
            # A tool call must run the same whatever becomes of its report.
            self._broken = True
            logger.warning("tool calls of this process are not reported: %s", error)

    def _open(self) -> bool:
        if self._address is None:
            self._address = Address.parse(self._text) if self._text else Address.default()
        folder = self._address.folder
        if folder is not None and not os.path.exists(endpoint(self._address).removeprefix("ipc://")):
            return False
        keys = os.environ.get(KEYS_ENV)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.sndhwm = _QUEUE
        self._socket.linger = 0
        self._socket.reconnect_ivl = _RECONNECT_MS
        self._socket.reconnect_ivl_max = _RECONNECT_MAX_MS
        self._address.connect(self._socket, endpoint(self._address), Keys.load(keys) if keys else None)
        return True

    def close(self) -> None:
        """Let what is queued go out, for a moment and only if somebody is there to take it."""
        with self._lock:
            if self._socket is None:
                return
            there = self._address.folder is None or is_taken(self._address)
            self._socket.close(_LINGER_MS if there else 0)
            self._context.term()
            self._socket = self._context = None


_channel: Channel | None = None
_inherited: list[Channel] = []


def channel_of_process() -> Channel:
    """The one that all calls of this process share."""
    global _channel
    if _channel is None:
        _channel = Channel()
    return _channel


def _forget() -> None:
    # A socket belongs to the process that opened it; a copy must neither be used nor closed.
    global _channel
    if _channel is not None:
        _inherited.append(_channel)
        _channel = None


@atexit.register
def _close() -> None:
    if _channel is not None:
        _channel.close()


os.register_at_fork(after_in_child=_forget)
