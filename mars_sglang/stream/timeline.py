"""``mars-sglang timeline``: a recording as a trace, with a row of tracks for each program and each executor.

Slices are written when they end, so memory grows with the programs, the executors and what is
under way, not with the recording's length.
"""

import argparse
import heapq
import os
import sys
from collections.abc import Iterator, Sequence

from mars_sglang.stream.events import (
    AdmissionWindow,
    Event,
    ExecutorLoad,
    SourceStopped,
    ToolEnded,
    ToolFailed,
    ToolStarted,
)
from mars_sglang.stream.program_tracks import ProgramTracks
from mars_sglang.stream.recording import Recording, RecordingError, Session
from mars_sglang.stream.trace import Row, Trace, Track

#: A message's ``at_s`` is at most this far from its arrival, in real seconds, and messages are
#: recorded in the order of their arrival: so two are at most twice this out of the order of time.
SAME_CLOCK_S = 1.0

#: Tool calls under way that are followed; a caller that was killed may never say that its call ended.
MAX_CALLS = 10_000


class Timeline:
    """Turns events, in the order of time, into a trace."""

    def __init__(self, trace: Trace):
        self._trace = trace
        self.programs = ProgramTracks(trace)
        self._gates: dict[str, int] = {}
        """Group of tracks by server."""
        self._executors: dict[str, tuple[int, Row]] = {}
        self._calls: dict[tuple[str, str], tuple[ToolStarted, int, list[Track]]] = {}

    def hear(self, event: Event, at_us: int) -> None:
        """Take in the next event, at a time that is not before the last one's."""
        match event:
            case ToolStarted():
                self._call_started(event, at_us)
            case ToolEnded() | ToolFailed():
                self._call_over(event, at_us)
            case ExecutorLoad():
                self._load(event, at_us)
            case AdmissionWindow():
                self._window(event, at_us)
            case _:
                self.programs.hear(event, at_us)
                if isinstance(event, SourceStopped):
                    for key in [key for key in self._calls if key[0] == event.source]:
                        self._draw_call(*self._calls.pop(key), at_us, {"unfinished": True})

    def end(self, at_us: int) -> None:
        """The recording is over: draw what is under way."""
        for call in self._calls.values():
            self._draw_call(*call, at_us, {"unfinished": True})
        self._calls.clear()
        self.programs.end(at_us)

    def _executor(self, name: str) -> tuple[int, Row]:
        known = self._executors.get(name)
        if known is None:
            pid = self._trace.process(f"executor {name}")
            known = self._executors[name] = (pid, Row(self._trace, pid, "tool calls", 0))
        return known

    def _tracks(self, event: ToolStarted | ToolEnded | ToolFailed, begin_us: int) -> list[Track]:
        rows = [self._executor(event.executor or event.source)[1]]
        if event.program is not None:
            rows.append(self.programs.calls(event.program))
        return [row.take(begin_us) for row in rows]

    def _call_started(self, event: ToolStarted, at_us: int) -> None:
        key = (event.source, event.call)
        if key not in self._calls and len(self._calls) < MAX_CALLS:
            self._calls[key] = (event, at_us, self._tracks(event, at_us))

    def _call_over(self, event: ToolEnded | ToolFailed, at_us: int) -> None:
        call = self._calls.pop((event.source, event.call), None)
        if call is None:
            begin_us = max(0, at_us - round(event.duration_s * 1e6))
            call = (event, begin_us, self._tracks(event, begin_us))
        args = {"error": event.error or "failed"} if isinstance(event, ToolFailed) else {}
        self._draw_call(*call, at_us, args)

    def _draw_call(self, event: ToolStarted | ToolEnded, begin_us: int, tracks: list[Track], at_us: int, args) -> None:
        name = f"{event.tool}: {event.command}" if event.command else event.tool or "tool"
        for track in tracks:
            track.slice(name, begin_us, at_us, {"program": event.program, "call": event.call, **args})
            track.busy = False

    def _load(self, event: ExecutorLoad, at_us: int) -> None:
        pid, _ = self._executor(event.executor or event.source)
        pressure = {"cpu": event.cpu_pressure, "memory": event.memory_pressure, "io": event.io_pressure}
        for name, values in (
            ("cores", {"used": event.cores_used}),
            ("run queue", {"tasks": event.run_queue}),
            ("pressure", pressure),
            ("throttled", {"share": event.throttled}),
            ("calls", {"active": event.active, "queued": event.queued}),
        ):
            self._trace.counter(pid, name, at_us, values)

    def _window(self, event: AdmissionWindow, at_us: int) -> None:
        pid = self._gates.get(event.server)
        if pid is None:
            pid = self._gates[event.server] = self._trace.process(f"admission of {event.server}")
        programs = {"admitted": event.admitted, "waiting": event.waiting, "paused": event.paused}
        tokens = {
            "footprint": event.footprint_tokens,
            "anonymous": event.anonymous_tokens,
            "capacity": event.capacity_tokens,
        }
        self._trace.counter(pid, "programs", at_us, programs)
        self._trace.counter(pid, "tokens", at_us, tokens)


def in_time_order(recording: Recording) -> Iterator[tuple[int, Event]]:
    """The events, with their times in microseconds from the first, which never go back."""
    waiting: list[tuple[float, int, Event]] = []
    zero_s: float | None = None
    last_us, number = 0, 0
    newest_s, slack_s = float("-inf"), 0.0

    def due(up_to_s: float) -> Iterator[tuple[int, Event]]:
        nonlocal zero_s, last_us
        while waiting and waiting[0][0] <= up_to_s:
            at_s, _, event = heapq.heappop(waiting)
            if zero_s is None or at_s < zero_s + last_us / 1e6 - slack_s:
                # The first of all, or the host's clock began anew between two sessions.
                zero_s = at_s - last_us / 1e6
            last_us = max(last_us, round((at_s - zero_s) * 1e6))
            yield last_us, event

    for record in recording:
        if isinstance(record, Session):
            yield from due(float("inf"))
            newest_s, slack_s = float("-inf"), 2 * SAME_CLOCK_S * record.speed
        elif record.event is not None:
            number += 1
            heapq.heappush(waiting, (record.at_s, number, record.event))
            newest_s = max(newest_s, record.at_s)
            yield from due(newest_s - slack_s)
    yield from due(float("inf"))


def draw(recording: Recording, trace: Trace) -> Timeline:
    """Write a recording's whole trace.

    Raises:
        RecordingError: the file is damaged.
        OSError: it cannot be read, or the trace cannot be written.
    """
    timeline, at_us = Timeline(trace), 0
    for at_us, event in in_time_order(recording):
        timeline.hear(event, at_us)
    timeline.end(at_us)
    trace.close()
    return timeline


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, or 2 for a file that cannot be read or written."""
    parser = argparse.ArgumentParser(
        prog="mars-sglang timeline", description="Write a recording as a trace for https://ui.perfetto.dev."
    )
    parser.add_argument("file", metavar="FILE", help="a recording: --mars-record of a server, --record of control")
    parser.add_argument("-o", "--output", metavar="OUT", help="the trace (default: FILE.trace.json)")
    options = parser.parse_args(argv)
    output = options.output or f"{options.file}.trace.json"
    if os.path.realpath(output) == os.path.realpath(options.file):
        parser.error("--output names the recording itself")
    try:
        recording = Recording(options.file)
        with open(output, "wb") as file:
            trace = Trace(file)
            timeline = draw(recording, trace)
    except (RecordingError, OSError) as error:
        print(f"mars-sglang timeline: error: {error}", file=sys.stderr)
        return 2
    cut = " (its last record was cut short)" if recording.truncated else ""
    print(f"{output}: {trace.events} trace events of {len(timeline.programs)} programs from {options.file}{cut}")
    print("open it in https://ui.perfetto.dev or chrome://tracing")
    return 0


if __name__ == "__main__":
    sys.exit(main())
