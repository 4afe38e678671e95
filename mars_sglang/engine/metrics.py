"""What MARS counts, on SGLang's own ``/metrics``: :class:`ServerMetrics`, told by the server process.

SGLang exports by prometheus_client's multiprocess mode: each process writes its values into a folder, and the server
process reads them all. The folder is set while the engine starts, and prometheus_client has to be imported later than
that. ``docs/metrics.md`` has the table.
"""

import functools
from collections.abc import Iterable

from mars_sglang.stream.events import AdmissionWindow
from mars_sglang.stream.snapshot import ExecutorState

#: Executors with a label of their own; those first heard of after as many are counted together, as :data:`OTHERS`.
MAX_LABELLED = 64
OTHERS = "others"

#: Decisions of an admission ticket that change who has a place.
DECISIONS = ("admitted", "resumed", "paused", "released")
#: Why a turn that was held went on without a ticket, as :class:`mars_sglang.stream.events.TurnPassed` says it.
REASONS = ("away", "slow", "restarted")
#: Statuses of turns that admission refuses, as :class:`mars_sglang.engine.refusals.AdmissionRefused` has them.
STATUSES = (429, 503)

#: From a gate that is open to a wait for hours of other programs.
_WAIT_BUCKETS_S = (0.01, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
#: A ticket is worth waiting 50 ms for.
_ANSWER_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2)

#: Fields of :class:`AdmissionWindow` that are gauges, with their names.
_WINDOW = {
    "admitted": ("mars:admitted_programs", "Programs that have a place."),
    "waiting": ("mars:waiting_programs", "Programs with a turn held at the gate."),
    "paused": ("mars:paused_programs", "Programs that gave up their place inside a tool."),
    "footprint_tokens": ("mars:footprint_tokens", "KV tokens that the policy counts for the admitted programs."),
    "anonymous_tokens": ("mars:anonymous_tokens", "KV tokens of running requests without a program."),
    "capacity_tokens": ("mars:capacity_tokens", "KV tokens of the engine's pool."),
    "host_tokens": ("mars:host_tokens", "KV tokens of the engine's host tier; 0 without one."),
}
_EXECUTOR = {
    "slots": ("mars:executor_slots", "Tool calls that may run at a time; 0 where the executor has no bound."),
    "active": ("mars:executor_active_calls", "Tool calls that run."),
    "queued": ("mars:executor_queued_calls", "Tool calls that wait for a slot."),
    "wait_s": ("mars:executor_wait_seconds", "How long a tool call waits for its slot, lately."),
    "stale": ("mars:executor_stale", "1 where the executor's load is unknown: its sidecar is silent or gone."),
}


class ServerMetrics:
    """Of one server process. Does nothing where metrics are off.

    Made once the engine is up.

    Args:
        enabled: whether SGLang was started with ``--enable-metrics``.
    """

    def __init__(self, enabled: bool):
        self._series = _series() if enabled else None

    def window(self, window: AdmissionWindow) -> None:
        """What the gate holds now."""
        if self._series is None:
            return
        for field, gauge in self._series.window.items():
            gauge.set(getattr(window, field))

    def known(self, programs: int) -> None:
        """How many programs the server remembers."""
        if self._series is not None:
            self._series.known.set(programs)

    def admitted(self, wait_s: float, *, resumed: bool = False) -> None:
        """A program got a place, after it waited so many seconds of :mod:`mars_sglang.clock` for it."""
        if self._series is not None:
            self._series.decisions["resumed" if resumed else "admitted"].inc()
            self._series.wait.observe(wait_s)

    def paused(self) -> None:
        """A program gave up its place inside a tool."""
        if self._series is not None:
            self._series.decisions["paused"].inc()

    def released(self) -> None:
        """A program ended or went dormant, and its place is free."""
        if self._series is not None:
            self._series.decisions["released"].inc()

    def refused(self, status: int) -> None:
        """A turn was refused with one of :data:`STATUSES`."""
        if self._series is not None:
            self._series.refusals[status].inc()

    def let_go(self, reason: str, turns: int = 1) -> None:
        """Held turns went to the engine without a ticket, for one of :data:`REASONS`."""
        if self._series is not None:
            self._series.let_go[reason].inc(turns)

    def connected(self, connected: bool) -> None:
        """Whether the control process is there and knows of this server."""
        if self._series is not None:
            self._series.connected.set(connected)

    def answered(self, seconds: float) -> None:
        """The control process answered a turn that asked for a ticket, after so many real seconds."""
        if self._series is not None:
            self._series.answer.observe(seconds)

    def executors(self, states: Iterable[ExecutorState]) -> None:
        """The last word of every executor that is known; one that was known before and is not now is stale."""
        if self._series is not None:
            self._series.show_executors(states)


class _Series:
    """The time series themselves; their labels are written at once, so that a rate has a zero to begin from."""

    def __init__(self):
        from prometheus_client import Counter, Gauge, Histogram

        # mostrecent: one process writes them, and its id is no label. As SGLang's own.
        gauge = functools.partial(Gauge, multiprocess_mode="mostrecent")
        self.window = {field: gauge(*described) for field, described in _WINDOW.items()}
        self.known = gauge("mars:known_programs", "Programs that the server remembers.")
        self.connected = gauge(
            "mars:control_connected", "1 while the control process is there and knows of this server."
        )
        self.wait = Histogram(
            "mars:admission_wait_seconds",
            "How long a program waited for its place, at its start or when it resumed.",
            buckets=_WAIT_BUCKETS_S,
        )
        self.answer = Histogram(
            "mars:ticket_answer_seconds",
            "How long the control process took to answer a turn that asked for a ticket.",
            buckets=_ANSWER_BUCKETS_S,
        )
        admissions = Counter("mars:admissions_total", "Decisions on the places of programs.", ["decision"])
        self.decisions = {decision: admissions.labels(decision) for decision in DECISIONS}
        refusals = Counter("mars:refusals_total", "Turns that admission refused, by HTTP status.", ["status"])
        self.refusals = {status: refusals.labels(str(status)) for status in STATUSES}
        let_go = Counter(
            "mars:let_go_turns_total",
            "Held turns that went to the engine without a ticket, by what the control process was.",
            ["reason"],
        )
        self.let_go = {reason: let_go.labels(reason) for reason in REASONS}
        self._executor = {field: gauge(*described, ["executor"]) for field, described in _EXECUTOR.items()}
        # A label cannot be taken back in multiprocess mode, so those that were ever given out are kept and bounded.
        self._labelled: dict[str, None] = {}

    def show_executors(self, states: Iterable[ExecutorState]) -> None:
        shown: dict[str, dict[str, float]] = dict.fromkeys(self._labelled, _NOTHING_HEARD)
        for state in states:
            load = state.load
            name = load.executor
            if name not in self._labelled:
                if len(self._labelled) < MAX_LABELLED:
                    self._labelled[name] = None
                else:
                    name = self._labelled.setdefault(OTHERS) or OTHERS
            values = {
                "slots": load.slots or 0,
                "active": load.active,
                "queued": load.queued,
                "wait_s": load.wait_s or 0.0,
                "stale": int(state.stale),
            }
            before = shown.get(name, _NOTHING_HEARD)
            shown[name] = values if before is _NOTHING_HEARD else _together(before, values)
        for name, values in shown.items():
            for field, gauge in self._executor.items():
                gauge.labels(name).set(values[field])


_NOTHING_HEARD = {"slots": 0, "active": 0, "queued": 0, "wait_s": 0.0, "stale": 1}


def _together(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """Several executors under one label: their calls add up, the worst wait and staleness count."""
    return {
        field: max(one[field], other[field]) if field in ("wait_s", "stale") else one[field] + other[field]
        for field in one
    }


@functools.cache
def _series() -> _Series:
    """One set for the process: a second server in it goes on with the first one's."""
    return _Series()
