"""A scheduler process's end of the stream: engine events out, load and predictions in."""

import logging
import time
from collections.abc import Iterator
from typing import Any

from mars_sglang.config import StreamConfig
from mars_sglang.engine.radix_cache import MarsRadixCache
from mars_sglang.engine.stream_end import MAX_TOLD_PROGRAMS, StreamEnd
from mars_sglang.engine.turns import TurnBook
from mars_sglang.stream.events import Event, ProgramState

logger = logging.getLogger(__name__)

#: How often the stream is heard, in real seconds. A scheduling pass is often shorter.
POLL_S = 0.02


class EngineStream:
    """Used by the one rank that hears; what it hears is broadcast by the scheduler."""

    def __init__(self, config: StreamConfig, book: TurnBook, cache: MarsRadixCache):
        self._cache = cache
        self._end = StreamEnd(config, "engine", self._retained)
        self._next_poll = 0.0
        book.say = self._end.publish

    def poll(self) -> tuple[Event, ...]:
        """What was said since the last time; nothing when that is not long ago."""
        real_now = time.monotonic()
        if real_now < self._next_poll:
            return ()
        self._next_poll = real_now + POLL_S
        return tuple(self._end.hear())

    def report(self) -> dict[str, Any]:
        """For ``/server_info``."""
        return self._end.report()

    def _retained(self) -> Iterator[ProgramState]:
        page = self._cache.page_size
        for program, tokens in list(self._cache.retained().items())[-MAX_TOLD_PROGRAMS:]:
            yield ProgramState(program=program, retained_pages=tokens // page, page_tokens=page)


def open_engine_stream(config: StreamConfig, book: TurnBook, cache: MarsRadixCache) -> EngineStream | None:
    """The stream, or None and one warning: serving does not depend on it."""
    try:
        return EngineStream(config, book, cache)
    except Exception as error:
        logger.warning("mars-sglang: no information stream from this scheduler: %s", error)
        return None
