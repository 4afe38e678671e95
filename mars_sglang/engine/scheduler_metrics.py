"""What MARS counts in a scheduler process, on SGLang's own ``/metrics``; ``docs/metrics.md`` has the table.

The rank that takes part in the stream looks at the counts now and then, so that no pass pays for it.
"""

import functools
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from mars_sglang.engine.radix_cache import MarsRadixCache
from mars_sglang.engine.resumption import OUTCOMES
from mars_sglang.engine.turns import TurnBook

#: How often they are shown, in real seconds; and how often at most with what takes a walk over the retained contexts,
#: which may take a thousandth of the time.
SHOW_S, WALK_S, WALK_SHARE = 1.0, 5.0, 1e-3

#: Names in :attr:`TurnBook.counters` of what is shown of turns that continued their program, by outcome.
_RESUMED = {outcome: f"turns_resumed_{outcome}" for outcome in OUTCOMES}

#: Others there, with the series of each.
_COUNTED = {
    "context_tokens_reused": ("mars:reused_tokens_total", "Tokens of continued contexts that were in the cache."),
    "context_tokens_recomputed": ("mars:recomputed_tokens_total", "Tokens of continued contexts computed again."),
    "contexts_reclaimed": ("mars:reclaimed_contexts_total", "Retained contexts given up for memory."),
    "tokens_reclaimed": ("mars:reclaimed_tokens_total", "Tokens of retained contexts that were evicted."),
    "tokens_loaded": ("mars:host_loaded_tokens_total", "Tokens loaded back from the host tier."),
    "turns_passed_over": ("mars:passed_over_turns_total", "Turns that did not fit while one behind them went ahead."),
    "turns_held_for_kept": (
        "mars:held_for_kept_turns_total",
        "Turns that would have fit at least once, but for kept contexts.",
    ),
    "turns_retracted": ("mars:retracted_turns_total", "Turns that were retracted at least once."),
}

_GAUGES = {
    "retained_programs": ("mars:retained_programs", "Programs whose last context is in the GPU's pool."),
    "retained_tokens": ("mars:retained_tokens", "KV tokens of those contexts, a shared prefix once."),
    "kept_programs": ("mars:kept_programs", "Programs inside a tool whose context turns ranked behind leave alone."),
    "kept_tokens": ("mars:kept_tokens", "KV tokens of those contexts."),
}


class SchedulerMetrics:
    """Of one scheduler process.

    Args:
        labels: of every series, as SGLang labels its own of this process.
        book, cache: what is shown.
        now: real time.
    """

    def __init__(
        self,
        labels: Mapping[str, Any],
        book: TurnBook,
        cache: MarsRadixCache,
        now: Callable[[], float] = time.monotonic,
    ):
        self._book = book
        self._cache = cache
        self._labels = tuple(labels.items())
        self._shown: Counter[str] = Counter()
        self._now = now
        self._show_at = self._walk_at = float("-inf")

    def show(self) -> None:
        """Bring the series up to date, if the last time is long enough ago."""
        real_now = self._now()
        if real_now < self._show_at:
            return
        self._show_at = real_now + SHOW_S
        # Not before: a rank that never shows anything has no series.
        counters, gauges = _series(self._labels)
        for name, counter in counters.items():
            count = self._book.counters[name]
            counter.inc(count - self._shown[name])
            self._shown[name] = count
        kept = self._book.kept
        gauges["kept_programs"].set(len(kept))
        gauges["kept_tokens"].set(kept.ahead_of(None))
        gauges["retained_programs"].set(self._cache.retained_programs())
        if real_now >= self._walk_at:
            gauges["retained_tokens"].set(self._cache.retained_tokens())
            ended = self._now()
            self._walk_at = ended + max(WALK_S, (ended - real_now) / WALK_SHARE)


@functools.cache
def _series(labels: tuple[tuple[str, Any], ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Counters and gauges by name; written at once, so that a rate has a zero to begin from."""
    import prometheus_client as prometheus

    named = dict(labels)
    resumed = prometheus.Counter("mars:resumed_turns_total", "Turns that continued their program.", [*named, "outcome"])
    counters = {name: resumed.labels(**named, outcome=outcome) for outcome, name in _RESUMED.items()}
    counters |= {name: prometheus.Counter(*series, named).labels(**named) for name, series in _COUNTED.items()}
    # mostrecent: one process writes each, and its id is no label. As SGLang's own.
    gauge = functools.partial(prometheus.Gauge, labelnames=named, multiprocess_mode="mostrecent")
    return counters, {name: gauge(*series).labels(**named) for name, series in _GAUGES.items()}
