"""The socket on which tools report to the sidecar."""

import contextlib
import os

import zmq

from mars_sglang.stream import lock
from mars_sglang.stream.address import Address
from mars_sglang.stream.keys import Keys
from mars_sglang.tools.endpoint import MAX_REPORT_BYTES, endpoint

#: Above this libzmq closes the connection before it takes the message in; below, it is counted as too large.
_MAX_FRAME_BYTES = 4 * MAX_REPORT_BYTES
#: Messages of one sender that wait here, the rest waits with the sender.
_QUEUE = 64


class ToolsAddressTaken(RuntimeError):
    """Another sidecar listens there."""


class Listener:
    """A bound PULL socket that is read without blocking."""

    def __init__(self, address: Address, keys: Keys | None = None):
        """Bind.

        Raises:
            ToolsAddressTaken: another sidecar listens there.
            AddressError, KeysError: an address that cannot be used, or not without other keys.
            OSError: an address that is no interface of this host.
        """
        self.address = address
        self._lock: int | None = None
        self._authenticator = None
        self._bound = False
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.linger = 0
        self._socket.maxmsgsize = _MAX_FRAME_BYTES
        self._socket.rcvhwm = _QUEUE
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        try:
            address.prepare(keys)
            self._take()
            if address.folder is None:
                from mars_sglang.stream.authenticator import Authenticator

                self._authenticator = Authenticator(self._context, keys)
                self._poller.register(self._authenticator.socket, zmq.POLLIN)
            address.bind(self._socket, endpoint(address), keys)
            self._bound = True
        except zmq.ZMQError as error:
            self.close()
            if error.errno == zmq.EADDRINUSE:
                raise ToolsAddressTaken(f"another process listens at {endpoint(address)}") from error
            raise OSError(f"cannot listen at {endpoint(address)}: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def wait(self, timeout_s: float) -> bool:
        """Until a message may be there; real seconds."""
        ready = dict(self._poller.poll(max(0, int(timeout_s * 1000))))
        if self._authenticator is not None and self._authenticator.socket in ready:
            self._authenticator.answer()
        return self._socket in ready

    def receive(self) -> list[bytes] | None:
        """The frames of the next message, of more than four the first four; None if there is none."""
        try:
            frames = [self._socket.recv(zmq.NOBLOCK)]
        except zmq.Again:
            return None
        while self._socket.getsockopt(zmq.RCVMORE):
            frame = self._socket.recv()
            if len(frames) < 4:
                frames.append(frame)
        return frames

    def close(self) -> None:
        self._socket.close(0)
        if self._authenticator is not None:
            self._authenticator.close()
        self._context.term()
        if self._bound and self.address.folder is not None:
            # libzmq leaves the file, and tools would look for us.
            with contextlib.suppress(OSError):
                os.unlink(endpoint(self.address).removeprefix("ipc://"))
        self._bound = False
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take(self) -> None:
        try:
            self._lock = lock.take(self.address, "tools")
        except BlockingIOError as error:
            raise ToolsAddressTaken(f"another sidecar listens at {self.address.text}") from error
