"""One process at a time behind the sockets of an ipc address."""

import fcntl
import os

from mars_sglang.stream.address import Address


def take(address: Address, name: str) -> int | None:
    """Be the only process that serves ``name`` there.

    libzmq would take the socket files of a living process away as readily as a dead one's; a lock goes with its
    process.

    Args:
        address: prepared, so that its folder is there.
        name: of the sockets: ``NAME.lock`` is locked.

    Returns:
        The descriptor that holds the lock until it is closed. None for TCP, where the port itself can be had once.

    Raises:
        BlockingIOError: another process serves it.
        OSError: the file cannot be opened, or the file system knows no locks.
    """
    if address.folder is None:
        return None
    path = f"{address.folder}/{name}.lock"
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        error.filename = path
        raise
    return lock
