"""Writes a trace that Perfetto and chrome://tracing open: the Trace Event Format, JSON object form.

Complete slices (``X``), instants (``i``), counters (``C``) and names (``M``); times in whole
microseconds. https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

from typing import Any, BinaryIO

import msgspec

_encode = msgspec.json.Encoder().encode

#: Perfetto sorts tracks by their numbers, so a row has this many that follow each other; a wider
#: one goes on behind all rows. No number may be that of a process, or it would be its main thread's.
_ROW, _FIRST, _BEHIND = 100, 1_000, 2_000_000_000


class Trace:
    """Writes as it is told; keeps nothing. :meth:`close` makes the file whole."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._processes = 0
        self._behind = _BEHIND
        self.events = 0
        file.write(b'{"displayTimeUnit":"ms","traceEvents":[')

    def process(self, name: str) -> int:
        """A group of tracks, shown below those made before; its number."""
        self._processes += 1
        pid = self._processes
        self._write({"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": name}})
        self._write({"ph": "M", "name": "process_sort_index", "pid": pid, "tid": 0, "args": {"sort_index": pid}})
        return pid

    def track(self, pid: int, name: str, row: int, number: int) -> "Track":
        """A track of a group, shown at a place in one of its rows."""
        if number < _ROW:
            tid = _FIRST + row * _ROW + number
        else:
            tid = self._behind = self._behind + 1
        self._write({"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": name}})
        return Track(self, pid, tid)

    def counter(self, pid: int, name: str, at_us: int, values: dict[str, float | None]) -> None:
        """Values of a counter track; those that are None are unknown and left out."""
        known = {key: value for key, value in values.items() if value is not None}
        if known:
            self._write({"ph": "C", "name": name, "pid": pid, "tid": 0, "ts": at_us, "args": known})

    def close(self) -> None:
        self._file.write(b"\n]}\n")

    def _write(self, event: dict[str, Any]) -> None:
        self._file.write(b",\n" if self.events else b"\n")
        self._file.write(_encode(event))
        self.events += 1


class Track:
    """Slices beside each other, and slices inside them."""

    def __init__(self, trace: Trace, pid: int, tid: int):
        self.busy = False
        """Taken by something that is under way."""
        self.end_us = 0
        """Where the last slice ends."""
        self._begin_us = 0
        self._trace = trace
        self._at = {"pid": pid, "tid": tid}

    def slice(self, name: str, begin_us: int, end_us: int, args: dict[str, Any] | None = None) -> None:
        """Draw a slice, but no part of it over the one before: slices that overlap garble a track."""
        self._begin_us = max(begin_us, self.end_us)
        if end_us > self._begin_us:
            self._draw(name, self._begin_us, end_us, args)
            self.end_us = end_us

    def inside(self, name: str, begin_us: int, end_us: int, args: dict[str, Any] | None = None) -> None:
        """Draw as much of a slice as lies in the last one."""
        begin_us, end_us = max(begin_us, self._begin_us), min(end_us, self.end_us)
        if end_us > begin_us:
            self._draw(name, begin_us, end_us, args)

    def instant(self, name: str, at_us: int, args: dict[str, Any] | None = None) -> None:
        self._trace._write({"ph": "i", "s": "t", "name": name, **self._at, "ts": at_us, "args": args or {}})

    def _draw(self, name: str, begin_us: int, end_us: int, args: dict[str, Any] | None) -> None:
        times = {"ts": begin_us, "dur": end_us - begin_us}
        self._trace._write({"ph": "X", "name": name, **self._at, **times, "args": args or {}})


class Row:
    """As many tracks as things of one name are under way at a time: ``x``, ``x (2)``, ..."""

    def __init__(self, trace: Trace, pid: int, name: str, number: int):
        self._trace, self._pid, self._name, self._number = trace, pid, name, number
        self._tracks: list[Track] = []

    @property
    def first(self) -> Track:
        return self._tracks[0] if self._tracks else self._add()

    def take(self, begin_us: int) -> Track:
        """The first track with nothing under way and nothing drawn from this time on; now taken."""
        for track in self._tracks:
            if not track.busy and track.end_us <= begin_us:
                break
        else:
            track = self._add()
        track.busy = True
        return track

    def _add(self) -> Track:
        number = len(self._tracks)
        name = f"{self._name} ({number + 1})" if number else self._name
        self._tracks.append(self._trace.track(self._pid, name, self._number, number))
        return self._tracks[-1]
