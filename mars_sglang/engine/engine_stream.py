"""A scheduler process's end of the stream: engine events out, load and predictions in."""

import logging
import time
from collections.abc import Iterator
from typing import Any

from mars_sglang.config import StreamConfig, instance
from mars_sglang.core.prefill_price import PRICED_TOKENS
from mars_sglang.engine.radix_cache import MarsRadixCache
from mars_sglang.engine.step_meter import StepMeter
from mars_sglang.engine.stream_end import MAX_TOLD_PROGRAMS, StreamEnd
from mars_sglang.engine.turns import TurnBook
from mars_sglang.stream.events import EngineSpeed, Event, ProgramState, SourceState
from mars_sglang.stream.resync import state_parts

logger = logging.getLogger(__name__)

#: How often the stream is heard, in real seconds. A scheduling pass is often shorter.
POLL_S = 0.02

#: The price of a token is said again once it changed by this share.
PRICE_CHANGE = 0.05


class EngineStream:
    """Used by the one rank that hears; what it hears is broadcast by the scheduler."""

    def __init__(self, config: StreamConfig, book: TurnBook, cache: MarsRadixCache):
        self._cache = cache
        self._end = StreamEnd(config, "engine", self._state, restarted=self._forget_said)
        self._next_poll = 0.0
        self._said: tuple[float, float | None] = (0.0, None)
        book.say = self._end.publish

    def poll(self, meter: StepMeter) -> tuple[Event, ...]:
        """What was said since the last time; nothing when that is not long ago. Says what work costs now."""
        real_now = time.monotonic()
        if real_now < self._next_poll:
            return ()
        self._next_poll = real_now + POLL_S
        self._say_speed(meter)
        return tuple(event for event in self._end.hear() if isinstance(event, Event))

    def _say_speed(self, meter: StepMeter) -> None:
        prefill_s, load_s = meter.price.seconds(PRICED_TOKENS) / PRICED_TOKENS, meter.load_token_s
        said_prefill_s, said_load_s = self._said
        if meter.price.steps and (_changed(said_prefill_s, prefill_s) or _changed(said_load_s, load_s)):
            self._said = prefill_s, load_s
            self._end.publish(EngineSpeed, instance=instance(), prefill_token_s=prefill_s, load_token_s=load_s)

    def report(self) -> dict[str, Any]:
        """For ``/server_info``."""
        return self._end.report()

    def _forget_said(self) -> None:
        # Another control process knows no prices.
        self._said = (0.0, None)

    def _state(self) -> Iterator[SourceState]:
        return state_parts("engine", self._retained())

    def _retained(self) -> Iterator[ProgramState]:
        page = self._cache.page_size
        for program, tokens in list(self._cache.retained().items())[-MAX_TOLD_PROGRAMS:]:
            yield ProgramState(program=program, retained_pages=tokens // page, page_tokens=page)


def _changed(said_s: float | None, now_s: float | None) -> bool:
    if said_s is None or now_s is None:
        return said_s is not now_s
    return abs(now_s - said_s) > PRICE_CHANGE * said_s


def open_engine_stream(config: StreamConfig, book: TurnBook, cache: MarsRadixCache) -> EngineStream | None:
    """The stream, or None and one warning: serving does not depend on it."""
    try:
        return EngineStream(config, book, cache)
    except Exception as error:
        logger.warning("mars-sglang: no information stream from this scheduler: %s", error)
        return None
