"""What was learned of pauses, in a file that outlives the control process."""

import contextlib
import logging
import os
from pathlib import Path

import msgspec

from mars_sglang import clock
from mars_sglang.core.prediction import PausePredictor, PredictionStateError

logger = logging.getLogger(__name__)

#: Real seconds between two writes: what a crash may lose.
SAVE_EVERY_S = 60.0


class Learned:
    """Reads and writes the file. What cannot be read or written costs what was learned, and nothing else.

    Args:
        path: None: nothing is kept.
    """

    def __init__(self, path: str | None):
        self._path = Path(path) if path is not None else None
        self._next_s = clock.now() + SAVE_EVERY_S * clock.speed()
        self._failed = False

    def load(self) -> PausePredictor | None:
        """What the file holds; None where there is none, or none that can be used."""
        if self._path is None or not self._path.exists():
            return None
        try:
            return PausePredictor.from_state(msgspec.msgpack.decode(self._path.read_bytes()))
        except (OSError, msgspec.DecodeError, PredictionStateError) as error:
            logger.warning("predictions start from nothing: %s: %s", self._path, error)
            return None

    def save_sometimes(self, predictor: PausePredictor) -> bool:
        """Write when it is time. False, so that it can stand in a condition."""
        now_s = clock.now()
        if now_s >= self._next_s:
            self._next_s = now_s + SAVE_EVERY_S * clock.speed()
            self.save(predictor)
        return False

    def save(self, predictor: PausePredictor) -> None:
        if self._path is None:
            return
        beside = self._path.with_suffix(".new")
        try:
            # Replaced in one step: a crash leaves the old or the new, whole.
            beside.write_bytes(msgspec.msgpack.encode(predictor.to_state()))
            os.replace(beside, self._path)
            self._failed = False
        except OSError as error:
            if not self._failed:
                logger.warning("what is learned of pauses is not kept: %s: %s", self._path, error)
            self._failed = True
            with contextlib.suppress(OSError):
                beside.unlink()
