"""CURVE keys of a stream over TCP: one pair for the control process, one for who talks to it.

A folder holds ``server.public``, ``server.secret``, ``client.public`` and ``client.secret``, each
one line of Z85. The control process lets in every ``client*.public`` of its folder and nobody
else; a sender or reader needs ``server.public`` and ``client.secret``.
"""

import argparse
import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import zmq

#: Security domain of the sockets; the authenticator of the control process answers for it.
ZAP_DOMAIN = b"mars-sglang"


class KeysError(ValueError):
    """Keys that are missing, unreadable as keys, or readable by others."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What a folder of keys holds; which of them are needed depends on the side."""

    folder: str
    server_public: bytes | None = None
    server_secret: bytes | None = None
    client_secret: bytes | None = None
    clients: frozenset[bytes] = frozenset()
    """Public keys of the clients that the control process lets in."""

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Keys":
        """Read a folder of keys.

        Raises:
            KeysError: no such folder, no keys in it, a file that is no key, or a secret that others can read.
        """
        place = Path(folder)
        if not place.is_dir():
            raise KeysError(f"no folder of keys at {place}; make one with `mars-sglang keys {place}`")
        keys = cls(
            str(place),
            _read(place / "server.public"),
            _read_secret(place / "server.secret"),
            _read_secret(place / "client.secret"),
            frozenset(key for path in sorted(place.glob("client*.public")) if (key := _read(path)) is not None),
        )
        if keys.server_public is None and keys.server_secret is None:
            raise KeysError(f"{place} holds no keys of a stream; make them with `mars-sglang keys {place}`")
        return keys

    def as_client(self, socket: zmq.Socket) -> None:
        """Let a socket talk to the holder of the server's secret key, and to nobody else."""
        if self.server_public is None or self.client_secret is None:
            raise KeysError(f"{self.folder} needs server.public and client.secret, for who connects to the stream")
        socket.curve_serverkey = self.server_public
        socket.curve_secretkey = self.client_secret
        socket.curve_publickey = zmq.curve_public(self.client_secret)

    def as_server(self, socket: zmq.Socket) -> None:
        """Let a socket serve holders of a client's secret key, and nobody else.

        Needs an authenticator in the socket's context; see :mod:`mars_sglang.stream.authenticator`.
        """
        if self.server_secret is None or not self.clients:
            raise KeysError(f"{self.folder} needs server.secret and client.public, for the control process")
        socket.curve_server = True
        socket.curve_secretkey = self.server_secret
        socket.zap_domain = ZAP_DOMAIN


def _read(path: Path) -> bytes | None:
    try:
        key = path.read_bytes().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeysError(f"cannot read {path}: {error.strerror}") from error
    try:
        zmq.curve_public(key)
    except (ValueError, zmq.ZMQError) as error:
        raise KeysError(f"{path} is not a CURVE key: one line of 40 characters of Z85") from error
    return key


def _read_secret(path: Path) -> bytes | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise KeysError(f"others can read the secret key {path} (mode {mode:04o}); make it yours: chmod 600 {path}")
    return _read(path)


def make_keys(folder: str | os.PathLike) -> None:
    """Write new keys into a folder, which is created with mode 0700.

    Raises:
        KeysError: the folder has keys already, or cannot be written.
    """
    place = Path(folder)
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        existing = sorted(path.name for side in ("server", "client") for path in place.glob(f"{side}.*"))
        if existing:
            raise KeysError(f"{place} has keys already ({', '.join(existing)}); they are never overwritten")
        for side in ("server", "client"):
            public, secret = zmq.curve_keypair()
            _write(place / f"{side}.public", public, 0o644)
            _write(place / f"{side}.secret", secret, 0o600)
    except OSError as error:
        raise KeysError(f"cannot write keys to {place}: {error.strerror}") from error


def _write(path: Path, key: bytes, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(key + b"\n")


def main(argv: Sequence[str] | None = None) -> int:
    """``mars-sglang keys FOLDER``; the exit status."""
    parser = argparse.ArgumentParser(
        prog="mars-sglang keys",
        description="Make CURVE keys for a stream over TCP. Existing keys are never overwritten.",
    )
    parser.add_argument("folder", help="where to write them; created, for you alone, where it is missing")
    folder = parser.parse_args(argv).folder
    try:
        make_keys(folder)
    except KeysError as error:
        print(f"mars-sglang keys: error: {error}", file=sys.stderr)
        return 1
    print(
        f"Wrote server.public, server.secret, client.public and client.secret to {folder}.\n"
        f"Control process: start it with --keys {folder}; it needs server.secret and client.public.\n"
        "Hosts of servers, sidecars and readers: copy server.public and client.secret to a folder there and name it.\n"
        "server.secret never leaves the host of the control process. Keep the .secret files readable by you alone."
    )
    return 0
