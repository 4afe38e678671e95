"""How long this engine's steps take: prefills, how much longer loads from the host tier make them, and decodes."""

from collections import deque
from collections.abc import Callable
from typing import Any

from mars_sglang.core.prefill_price import PrefillPrice
from mars_sglang.engine.turns import MAX_LAUNCHED

#: Steps with fewer new tokens say more about launches than about tokens.
LEAST_TOKENS = 256

#: Weight of the newest load, and of the newest decode step, in the mean.
NEWEST_WEIGHT = 0.1


class StepMeter:
    """Times steps from launch to result. With overlapped scheduling the result of a step is seen
    when the next one was launched, so a step counts from the end of the one before it.

    Args:
        now: our clock.
    """

    def __init__(self, now: Callable[[], float]):
        self._now = now
        self._launched: deque[float] = deque(maxlen=MAX_LAUNCHED)
        self._ended_s = float("-inf")
        self._going_on: Any = None
        """The request in the middle of its prefill after the last prefill step."""
        self.price = PrefillPrice()
        self.decode_s = 0.0
        """Of a decode step, lately; 0 until there was one."""
        self.load_token_s: float | None = None
        """Seconds that a token loaded from the host tier adds to a step: the link's time beyond that of the computation
        above it. None until one was loaded."""

    def began(self) -> None:
        """A batch is about to run. Results come in the order of launches."""
        self._launched.append(self._now())

    def ended(self, batch: Any) -> None:
        """The result of the batch launched first is here."""
        now_s = self._now()
        began_s = max(self._launched.popleft(), self._ended_s) if self._launched else now_s
        self._ended_s = now_s
        if batch.forward_mode.is_decode():
            took_s = now_s - began_s
            self.decode_s += NEWEST_WEIGHT * (took_s - self.decode_s) if self.decode_s else took_s
        if batch.forward_mode.is_extend():
            rows = list(zip(batch.extend_lens, batch.prefix_lens, strict=True))
            # A turn whose prefill goes on was loaded for before.
            loaded = sum(req.materialized_host_hit_len() for req in batch.reqs if req is not self._going_on)
            self._going_on = batch.chunked_req
            if loaded >= LEAST_TOKENS:
                self._learn_load(rows, loaded, now_s - began_s)
            elif not loaded and sum(extend for extend, _ in rows) >= LEAST_TOKENS:
                self.price = self.price.learned(rows, now_s - began_s)

    def _learn_load(self, rows: list[tuple[int, int]], loaded_tokens: int, seconds: float) -> None:
        expected_s = sum(self.price.seconds(extend, prefix) for extend, prefix in rows)
        added_s = max(0.0, seconds - expected_s) / loaded_tokens
        known_s = added_s if self.load_token_s is None else self.load_token_s
        self.load_token_s = known_s + NEWEST_WEIGHT * (added_s - known_s)
