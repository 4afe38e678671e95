"""What an engine process decided, a line each, in a file per rank: ranks that agree write the same file.

Off, and free of cost, unless :data:`FOLDER_ENV` names a folder when the server starts. A line is a JSON array: kind of
decision, time that it was decided by, how many ids it orders, a checksum of them in their order, and the first of them.
Only what differs from doing nothing is written.

    order     waiting turns, where the policy changed their order
    reclaim   the program whose retained context goes next
    victims   running turns, the first to be retracted last
    held      a turn that would fit, and has to leave a kept context alone
    aged      a turn that does not fit, and waited so long that those behind it may not pass it any more
"""

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

FOLDER_ENV = "MARS_DECISION_LOG"

#: Lines of a file, about 100 bytes each; the last one says that there were more.
MAX_LINES = 5_000_000

#: Ids that a line shows, and characters of each: clients choose some of them.
_SHOWN_IDS, _SHOWN_CHARACTERS = 4, 64


class DecisionLog:
    """A file that is written line by line, so that it is whole when its process is killed.

    Args:
        path: a new file, or one to be overwritten.
        max_lines: after which nothing more is written.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, max_lines: int = MAX_LINES):
        self._file = path.open("w", encoding="utf-8", buffering=1)
        self._lines_left = max_lines

    def write(self, kind: str, now_s: float, ids: Sequence[str]) -> None:
        """A decision on these turns or programs, in this order."""
        if self._lines_left <= 0:
            return
        self._lines_left -= 1
        if self._lines_left == 0:
            self._file.write('["full"]\n')
            return
        checksum = zlib.crc32(json.dumps(list(ids)).encode())
        line = [kind, now_s, len(ids), checksum, [shown[:_SHOWN_CHARACTERS] for shown in ids[:_SHOWN_IDS]]]
        self._file.write(json.dumps(line) + "\n")


def open_decision_log(rank: str) -> DecisionLog | None:
    """The log of this process; None where :data:`FOLDER_ENV` is not set.

    Args:
        rank: names the file; no other process of the server has the same.

    Raises:
        OSError: the folder is no folder, or cannot be written to.
    """
    folder = os.environ.get(FOLDER_ENV)
    return DecisionLog(Path(folder) / f"decisions-{rank}.jsonl") if folder else None
