"""Tool calls in flight on this executor, and how long they wait and run."""

from collections import OrderedDict
from collections.abc import Callable, Iterator

import msgspec

from mars_sglang.stream.events import Event, ToolCallState, ToolEnded, ToolFailed, ToolStarted
from mars_sglang.tools.messages import CallQueued, Report
from mars_sglang.tools.process import Process

#: Weight of the newest time in a moving average, as in TCP's round-trip estimate (RFC 6298).
_WEIGHT = 1 / 8
#: A time is believed when it is at most this old: real seconds, by a clock that may not be ours, and by ours.
_STRANGE_CLOCK_S, _OUR_CLOCK_S = 1.0, 86_400.0
#: A call of which no process can be watched is followed this long; agents give up on a tool before.
_UNWATCHED_S = 6 * 3600.0
#: Processes looked at in one sweep, so that a full table costs no more than a few.
_SWEEP = 100


class Call(msgspec.Struct, omit_defaults=True):
    """One call in flight."""

    program: str
    call: str
    tool: str
    turn: str | None = None
    command: str | None = None
    process: Process | None = None
    queued_s: float | None = None
    started_s: float | None = None
    """None while it waits for a slot."""
    doubted: bool = False
    """Its process was gone at the last look; its last report may still be on its way."""


class Calls:
    """Takes reports and says what to publish. Memory is bounded; the call heard of least lately goes."""

    def __init__(self, executor: str, *, where: str | None = None, limit: int = 10_000, speed: float = 1.0):
        """Make an empty table.

        Args:
            where: :func:`mars_sglang.tools.process.where`, to know whose clock is ours.
            speed: seconds of the clock in a real second.
        """
        self.wait_s: float | None = None
        self.service_s: float | None = None
        self.active = 0
        self.changed = False
        """Since it was last set to False by who saves the table."""
        self._executor = executor
        self._where = where
        self._limit = limit
        self._speed = speed
        # Ids of calls are their agents' own and may be the same in two programs.
        self._calls: OrderedDict[tuple[str, str], Call] = OrderedDict()
        self._swept = 0

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def queued(self) -> int:
        return len(self._calls) - self.active

    def take(self, report: Report, now: float) -> list[Event]:
        """Take in a report received now; what to publish, in order."""
        self.changed = True
        key = (report.program or "", report.call)
        if isinstance(report, ToolEnded | ToolFailed):
            return [self._over(key, report, now)]
        known = self._calls.get(key)
        if known is None:
            known = Call(report.program, report.call, report.tool, report.turn, report.command, report.process)
            self._calls[key] = known
        self._calls.move_to_end(key)
        events: list[Event] = []
        at_s = self._believed(report.time_s, now, known)
        if isinstance(report, CallQueued):
            if known.started_s is None:
                known.queued_s = at_s
        elif known.started_s is None:
            self.active += 1
            known.started_s = at_s
            self.wait_s = _averaged(self.wait_s, 0.0 if known.queued_s is None else max(0.0, at_s - known.queued_s))
            events.append(ToolStarted(**self._said(known), time_s=at_s))
        if len(self._calls) > self._limit:
            events += self._give_up(next(iter(self._calls)), "more calls in flight than are followed", now)
        return events

    def sweep(self, is_gone: Callable[[Process], bool], now: float) -> list[Event]:
        """Look after the processes of some calls; fail those that were gone the last time too."""
        keys = list(self._calls)
        looked: dict[Process, bool] = {}
        events: list[Event] = []
        for n in range(len(keys)):
            key = keys[(self._swept + n) % len(keys)]
            call = self._calls[key]
            since_s = call.queued_s if call.started_s is None else call.started_s
            if call.process is None or call.process.where != self._where:
                if now - since_s > _UNWATCHED_S * self._speed:
                    events += self._give_up(key, "no end of it was heard of", now)
                continue
            if call.process not in looked:
                if len(looked) == _SWEEP:
                    self._swept += n
                    break
                looked[call.process] = is_gone(call.process)
            if looked[call.process] and call.doubted:
                events += self._give_up(key, "its process vanished", now)
            call.doubted = looked[call.process]
        return events

    def states(self) -> Iterator[ToolCallState]:
        """The running calls, for a :class:`mars_sglang.stream.events.SourceState`."""
        for call in self._calls.values():
            if call.started_s is not None:
                yield ToolCallState(**self._said(call), started_s=call.started_s)

    def save(self) -> bytes:
        return msgspec.msgpack.encode((self._where, list(self._calls.values())))

    def load(self, saved: bytes) -> None:
        """Take over the calls of a sidecar that was killed; of another start of the host, none.

        Raises:
            ValueError: nothing that :meth:`save` wrote.
        """
        where, calls = msgspec.msgpack.decode(saved, type=tuple[str | None, list[Call]])
        if where is None or where != self._where:
            return
        for call in calls[-self._limit :]:
            self._calls[(call.program, call.call)] = call
        self.active = sum(call.started_s is not None for call in self._calls.values())

    def _over(self, key: tuple[str, str], report: ToolEnded | ToolFailed, now: float) -> Event:
        known = self._calls.pop(key, None)
        at_s = self._believed(report.time_s, now, None)
        duration_s = report.duration_s
        if known is None:
            known = Call(report.program, report.call, report.tool, report.turn, report.command)
        elif known.started_s is not None:
            self.active -= 1
            duration_s = duration_s or max(0.0, at_s - known.started_s)
        self.service_s = _averaged(self.service_s, duration_s)
        said = {**self._said(known), "time_s": at_s, "duration_s": duration_s}
        return ToolFailed(**said, error=report.error[:200]) if isinstance(report, ToolFailed) else ToolEnded(**said)

    def _give_up(self, key: tuple[str, str], error: str, now: float) -> list[Event]:
        self.changed = True
        call = self._calls.pop(key)
        if call.started_s is None:
            return []
        self.active -= 1
        duration_s = max(0.0, now - call.started_s)
        return [ToolFailed(**self._said(call), time_s=now, duration_s=duration_s, error=error)]

    def _said(self, call: Call) -> dict[str, str | None]:
        return {
            "program": call.program,
            "turn": call.turn,
            "call": call.call,
            "tool": call.tool,
            "command": call.command,
            "executor": self._executor,
        }

    def _believed(self, time_s: float, now: float, call: Call | None) -> float:
        ours = call is not None and call.process is not None and call.process.where == self._where
        oldest = (_OUR_CLOCK_S if ours else _STRANGE_CLOCK_S) * self._speed
        return time_s if 0.0 <= now - time_s <= oldest else now


def _averaged(average: float | None, value: float) -> float:
    return value if average is None else average + _WEIGHT * (value - average)
