"""How long this engine's prefill steps take."""

from collections import deque
from collections.abc import Callable
from typing import Any

from mars_sglang.core.prefill_price import PrefillPrice

#: Steps with fewer new tokens say more about launches than about tokens.
LEAST_TOKENS = 256

#: Launched and without a result: two with overlapped scheduling, one per stage of a pipeline.
_MAX_LAUNCHED = 64


class PrefillMeter:
    """Times steps from launch to result. With overlapped scheduling the result of a step is seen
    when the next one was launched, so a step counts from the end of the one before it.

    Args:
        now: our clock.
    """

    def __init__(self, now: Callable[[], float]):
        self._now = now
        self._launched: deque[float] = deque(maxlen=_MAX_LAUNCHED)
        self._ended_s = float("-inf")
        self.price = PrefillPrice()

    def began(self) -> None:
        """A batch is about to run. Results come in the order of launches."""
        self._launched.append(self._now())

    def ended(self, batch: Any) -> None:
        """The result of the batch launched first is here."""
        now_s = self._now()
        began_s = max(self._launched.popleft(), self._ended_s) if self._launched else now_s
        self._ended_s = now_s
        if batch.forward_mode.is_extend():
            rows = list(zip(batch.extend_lens, batch.prefix_lens, strict=True))
            if sum(extend for extend, _ in rows) >= LEAST_TOKENS:
                self.price = self.price.learned(rows, now_s - began_s)
