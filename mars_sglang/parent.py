"""The process that a process of ours was started for, and ends with."""

import os
import select
from collections.abc import Callable


def watch(pid: int | None) -> Callable[[], bool]:
    """A test for the end of a process that cannot mistake another with the same id for it.

    Args:
        pid: of the process, which may be over already; None for no process, which never ends. Where the kernel lets
            nobody watch a process, the one that started this process is watched in its place.
    """
    if pid is None:
        return lambda: False
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return lambda: True
    except (AttributeError, OSError):  # a Python that was built for an older kernel, or a container that forbids it
        started_by = os.getppid()
        return lambda: os.getppid() != started_by
    return lambda: bool(select.select([watched], [], [], 0)[0])
