"""Where the three sockets of the stream are: one string names them all.

``ipc:///folder`` is ``events.sock``, ``stream.sock`` and ``snapshot.sock`` in a folder that only
its owner may enter; ``tcp://host:PORT`` is PORT, PORT + 1 and PORT + 2, with CURVE keys only.
"""

import os
import re
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

import zmq

from mars_sglang.stream.keys import Keys

#: ``sun_path`` of a Unix socket has 108 bytes with its closing zero, on Linux.
MAX_IPC_PATH_BYTES = 107

#: Name of the stream beside a server on SGLang's default port: a server names its stream by its port.
SERVER_NAME = "30000"

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TCP = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^:/\s\[\]]+):(\d{1,5})")
_ACCEPTED = "accepted are ipc:///FOLDER with an absolute path, and tcp://HOST:PORT with CURVE keys"


class AddressError(ValueError):
    """An address that cannot be used; the message says what is accepted."""


@dataclass(frozen=True, slots=True)
class Address:
    """The endpoints of the sockets: senders to ``events``, readers from ``stream`` and ``snapshot``."""

    text: str
    folder: str | None = None
    """Of an ipc address."""
    host: str | None = None
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read an address.

        Raises:
            AddressError: neither ``ipc:///folder`` nor ``tcp://host:PORT``, or an ipc path too long for a socket.
        """
        scheme, separator, rest = text.partition("://")
        if separator and scheme == "ipc" and rest.startswith("/"):
            folder = os.path.normpath(rest)
            longest, room = len(os.fsencode(folder)), MAX_IPC_PATH_BYTES - len("/snapshot.sock")
            if longest > room:
                raise AddressError(
                    f"address {text!r} is too long: a socket's path has at most {MAX_IPC_PATH_BYTES} bytes, so its "
                    f"folder may have {room} and has {longest}; choose a shorter one"
                )
            return cls(f"ipc://{folder}", folder=folder)
        match = _TCP.fullmatch(rest) if separator and scheme == "tcp" else None
        if match is None:
            raise AddressError(f"address {text!r} names no place for the stream; {_ACCEPTED}")
        port = int(match[2])
        if not 1 <= port <= 65533:
            raise AddressError(f"address {text!r} has port {port}; accepted are 1 to 65533, for two more follow it")
        return cls(text, host=match[1], port=port)

    @classmethod
    def default(cls, name: str = "default") -> "Address":
        """The ipc folder of this user: under ``$XDG_RUNTIME_DIR``, else under the temporary folder.

        Raises:
            AddressError: a name that is not 1 to 64 letters, digits, dots, dashes and underscores.
        """
        if not _NAME.fullmatch(name) or name.strip(".") == "":
            raise AddressError(f"stream name {name!r} is not 1 to 64 letters, digits, '.', '-' or '_'")
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        if runtime and os.path.isdir(runtime):
            return cls.parse(f"ipc://{os.path.abspath(runtime)}/mars-sglang/{name}")
        return cls.parse(f"ipc://{os.path.abspath(tempfile.gettempdir())}/mars-sglang-{os.getuid()}/{name}")

    @property
    def events(self) -> str:
        return self._endpoint("events", 0)

    @property
    def stream(self) -> str:
        return self._endpoint("stream", 1)

    @property
    def snapshot(self) -> str:
        return self._endpoint("snapshot", 2)

    def _endpoint(self, name: str, offset: int) -> str:
        return f"ipc://{self.folder}/{name}.sock" if self.folder else f"tcp://{self.host}:{self.port + offset}"

    def prepare(self, keys: Keys | None) -> None:
        """Check that nobody else can listen or speak there; creates the folder of an ipc address.

        Raises:
            AddressError: a folder that others may enter or own, or TCP without keys.
        """
        if self.folder is not None:
            _own_folder(Path(self.folder))
        elif keys is None:
            raise AddressError(
                f"{self.text} is TCP, which needs CURVE keys: make them with `mars-sglang keys FOLDER` and name the "
                "folder, or use an ipc:///FOLDER address on one host"
            )

    def connect(self, socket: zmq.Socket, endpoint: str, keys: Keys | None) -> None:
        """Connect a sender or a reader; it may come before the control process, and outlive it.

        Raises:
            AddressError, mars_sglang.stream.keys.KeysError: as :meth:`prepare`, or keys of the wrong side.
        """
        self.prepare(keys)
        if self.folder is None:
            keys.as_client(socket)
            _watch_peers(socket, self.host)
        socket.connect(endpoint)

    def bind(self, socket: zmq.Socket, endpoint: str, keys: Keys | None) -> None:
        """Bind a socket of the control process.

        Raises:
            AddressError, mars_sglang.stream.keys.KeysError: as :meth:`prepare`, or keys of the wrong side.
            zmq.ZMQError: the port is taken, or the host is no interface of this machine.
        """
        self.prepare(keys)
        if self.folder is None:
            keys.as_server(socket)
            _watch_peers(socket, self.host)
        socket.bind(endpoint)


def _watch_peers(socket: zmq.Socket, host: str) -> None:
    """A host that vanished closes no connection; without these its peers would wait for ever."""
    socket.ipv6 = host.startswith("[")
    socket.heartbeat_ivl = 1000
    socket.heartbeat_timeout = 3000


def _own_folder(folder: Path) -> None:
    missing = [folder, *folder.parents]
    for path in reversed([path for path in missing if not path.exists()]):
        try:
            path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise AddressError(f"cannot create the stream's folder {folder}: {error.strerror}: {path}") from error
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise AddressError(f"{folder} is not a folder; the stream needs a folder of its own for its sockets")
    if found.st_uid != os.getuid():
        raise AddressError(f"{folder} belongs to uid {found.st_uid}, not to you; choose a folder that you own")
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise AddressError(f"others may enter {folder} (mode {mode:04o}); make it yours alone: chmod 700 {folder}")
    parent = folder.parent.stat()
    # Who may rename the folder may put another in its place.
    others_write = parent.st_mode & 0o022 and not parent.st_mode & stat.S_ISVTX
    if parent.st_uid not in (0, os.getuid()) or others_write:
        raise AddressError(f"others may replace {folder}, for they may write to {folder.parent}; choose another place")
