"""Where the sidecar of a host takes tool events."""

from mars_sglang.stream.address import Address

#: Longest message that the sidecar takes.
MAX_REPORT_BYTES = 64 * 1024


def endpoint(address: Address) -> str:
    """``tools.sock`` in an ipc address's folder; the very port of a TCP address."""
    return f"ipc://{address.folder}/tools.sock" if address.folder else address.text


def is_taken(address: Address) -> bool:
    """Whether somebody listens there; a file left by a process that was killed does not. Always False for TCP."""
    import socket

    if address.folder is None:
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0.1)
        try:
            probe.connect(endpoint(address).removeprefix("ipc://"))
        except OSError:
            return False
    return True
