"""Files of the kernel: kept open, and read again from their start."""

import os
from pathlib import Path

#: The lines of the cores come first in ``/proc/stat``; this holds those of 500.
_MAX_BYTES = 64 * 1024


class KernelFile:
    """One file of ``/proc`` or ``/sys``; ``""`` is read where there is none."""

    def __init__(self, path: Path):
        self.path = path
        self._descriptor: int | None = None
        self._open()

    def _open(self) -> None:
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._descriptor = None

    def read(self) -> str:
        if self._descriptor is None:
            return ""
        try:
            return os.pread(self._descriptor, _MAX_BYTES, 0).decode("ascii", "replace")
        except OSError:
            # A cgroup that was removed, or pressure accounting that is off: not worth another try.
            self.close()
            return ""

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def read_once(path: Path) -> str:
    """A file that is read once, ``""`` where there is none."""
    file = KernelFile(path)
    try:
        return file.read()
    finally:
        file.close()
