"""``mars-sglang replay``: decide again what a recording says was decided, and compare byte for byte.

What the control process's consumers said, its gates' tickets among it, follows from the stream alone. It is said
again by the same objects from the recorded inputs in the recorded order at the recorded times.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from mars_sglang import __version__
from mars_sglang.control.admission import AdmissionConsumer
from mars_sglang.control.pauses import PauseConsumer
from mars_sglang.control.sequencer import Consumer, Sequencer
from mars_sglang.control.state import STALE_S
from mars_sglang.stream.codec import kind_of
from mars_sglang.stream.events import Event, Heartbeat
from mars_sglang.stream.recording import Recorded, Recording, RecordingError, Session

SAME, DIFFERENT, UNUSABLE = 0, 1, 2

#: Events shown of each side of the first difference.
_MAX_SHOWN = 8

Consumers = Callable[[Session], Sequence[Consumer]]
"""The deciders of a control process as its session's settings made them, new and knowing nothing."""


def _consumers(session: Session) -> Sequence[Consumer]:
    return [PauseConsumer(), AdmissionConsumer()]


class Decision(NamedTuple):
    """One run of a decider, as recorded and as replayed."""

    decider: str
    """The process that decided."""
    seq: int
    """Place in the order of the message that ends it, or that it follows from."""
    at_s: float
    recorded: tuple[Event, ...]
    replayed: tuple[Event, ...]

    @property
    def same(self) -> bool:
        """Whether both sides are the same bytes, but for the sender's name and number."""
        return [_bytes(event) for event in self.recorded] == [_bytes(event) for event in self.replayed]


class Replay:
    """All decisions of a recording, made again: iterate once.

    Memory grows with the programs of the recording, not with its length.

    Raises, while iterated:
        RecordingError: the file is damaged.
    """

    def __init__(self, recording: Recording, consumers: Consumers = lambda session: ()):
        self._recording = recording
        self._consumers = consumers
        self.sessions: list[Session] = []
        self.messages = 0
        self.programs: set[str] = set()
        self.first_s: float | None = None
        self.last_s = 0.0
        self.notes: list[str] = []
        """From where on decisions could not be compared, and why."""

    def __iter__(self) -> Iterator[Decision]:
        control: _ControlReplay | None = None
        for record in self._recording:
            if isinstance(record, Session):
                if control is not None:
                    yield from control.end()
                self.sessions.append(record)
                control = _ControlReplay(record, self._consumers(record), self.notes)
                continue
            self._count(record)
            yield from control.hear(record)
        if control is not None:
            yield from control.end()
        if self._recording.truncated:
            self.notes.append("the last record was cut short; all before it count")

    def _count(self, record: Recorded) -> None:
        self.messages += 1
        self.first_s = record.at_s if self.first_s is None else self.first_s
        self.last_s = record.at_s
        if record.event is not None and record.event.program is not None:
            self.programs.add(record.event.program)


class _ControlReplay:
    """What the consumers of one run of the control process said."""

    def __init__(self, session: Session, consumers: Sequence[Consumer], notes: list[str]):
        self._source = session.source
        self._order = Sequencer(session.epoch, session.source, consumers, stale_s=STALE_S * session.speed)
        self._notes = notes
        self._comparable = True
        self._seq = 0
        self._cause: Recorded | None = None
        self._recorded: list[Event] = []
        self._replayed: list[Event] = []

    def hear(self, record: Recorded) -> Iterator[Decision]:
        """The next message; what the one before it led to is compared."""
        if not self._comparable:
            return
        lost = record.seq != self._seq + 1
        self._seq = record.seq
        if lost or record.event is None:
            why = "messages are missing in the file" if lost else "a message of a newer version"
            self._notes.append(f"{_where(record)}: {why}; what {self._source} decided from here is not compared")
            yield from self.end()
            self._comparable = False
            return
        event = record.event
        if event.source == self._source and not isinstance(event, Heartbeat):
            self._recorded.append(event)
            return
        yield from self._compare()
        self._cause = record
        if isinstance(event, Heartbeat):
            said = self._order.tick(record.at_s, event.resend, event.counters)
        else:
            said = self._order.order(event, record.payload, record.at_s)
        self._recorded, self._replayed = [], [message.event for message in said[1:]]

    def end(self) -> Iterator[Decision]:
        """No more is known of this run, whose last answers may not have reached the file."""
        del self._replayed[len(self._recorded) :]
        yield from self._compare()
        self._recorded, self._replayed = [], []

    def _compare(self) -> Iterator[Decision]:
        if self._recorded or self._replayed:
            recorded, replayed = tuple(self._recorded), tuple(self._replayed)
            yield Decision(self._source, self._cause.seq, self._cause.at_s, recorded, replayed)


def _plain(event: Event) -> dict[str, Any]:
    # Every field: whether a message leaves one out at its default depends on who made it.
    fields = msgspec.structs.asdict(event)
    del fields["source"], fields["source_seq"]
    return {"kind": kind_of(event), **fields}


def _bytes(event: Event) -> bytes:
    return msgspec.msgpack.encode(_plain(event))


def _where(record: Recorded) -> str:
    return f"message {record.seq} of epoch {record.epoch}, at {record.at_s:.3f} s"


def main(argv: Sequence[str] | None = None, consumers: Consumers = _consumers) -> int:
    """The exit status: 0 where all decisions are the same, 1 where one differs, 2 for what cannot be replayed."""
    parser = argparse.ArgumentParser(
        prog="mars-sglang replay", description="Decide again what a recording says was decided, and compare."
    )
    parser.add_argument("file", metavar="FILE", help="a recording: --mars-record of a server, --record of control")
    parser.add_argument("--decisions", metavar="FILE", help="write the replayed decisions, one JSON object a line")
    options = parser.parse_args(argv)
    if options.decisions and os.path.realpath(options.decisions) == os.path.realpath(options.file):
        parser.error("--decisions names the recording itself")
    compared = same = 0
    first: Decision | None = None
    with contextlib.ExitStack() as files:
        try:
            replay = Replay(Recording(options.file), consumers)
            out = files.enter_context(open(options.decisions, "wb")) if options.decisions else None
            for decision in replay:
                compared += 1
                same += decision.same
                if first is None and not decision.same:
                    first = decision
                if out is not None:
                    out.writelines(_line(decision.decider, event) for event in decision.replayed)
        except (RecordingError, OSError) as error:
            print(f"mars-sglang replay: error: {error}", file=sys.stderr)
            return UNUSABLE
    _report(options.file, replay, compared, same, first)
    return SAME if first is None else DIFFERENT


def _line(decider: str, event: Event) -> bytes:
    return msgspec.json.encode({"decider": decider, **_plain(event)}) + b"\n"


def _report(file: str, replay: Replay, compared: int, same: int, first: Decision | None) -> None:
    seconds = replay.last_s - replay.first_s if replay.first_s is not None else 0.0
    versions = sorted({session.mars_sglang for session in replay.sessions})
    print(f"{file}: {replay.messages} messages in {seconds:.1f} s, {len(replay.programs)} programs")
    print(f"recorded by mars-sglang {', '.join(versions)} in {len(replay.sessions)} runs, replayed by {__version__}")
    print(f"{compared} decisions compared: {same} the same, {compared - same} different")
    for note in replay.notes:
        print(f"note: {note}")
    if first is None:
        return
    print(f"first difference: message {first.seq}, at {first.at_s:.3f} s, decided by {first.decider}")
    equal = 0
    for one, other in zip(first.recorded, first.replayed, strict=False):
        if _bytes(one) != _bytes(other):
            break
        equal += 1
    if equal:
        print(f"  the first {equal} events are the same")
    for name, events in (("recorded", first.recorded[equal:]), ("replayed", first.replayed[equal:])):
        shown = [msgspec.json.encode(_plain(event)).decode() for event in events[:_MAX_SHOWN]] or ["nothing"]
        more = [f"and {len(events) - _MAX_SHOWN} more"] if len(events) > _MAX_SHOWN else []
        print("\n".join(f"  {name}: {line}" for line in shown + more))


if __name__ == "__main__":
    sys.exit(main())
