"""Bytes of the stream: one event is one msgpack map, and its place in the order a header before it."""

import struct
from typing import Annotated, NamedTuple

import msgspec

from mars_sglang.stream.events import MAX_NAME_CHARACTERS, AnyEvent, Event
from mars_sglang.stream.snapshot import Snapshot

#: A longer event is refused by its sender, and dropped and counted by the control process.
MAX_EVENT_BYTES = 64 * 1024

#: Epoch, global sequence, sequence within the topic, and ``at_s``.
HEADER = struct.Struct(">QQQd")

_encoder = msgspec.msgpack.Encoder()
_events = msgspec.msgpack.Decoder(AnyEvent)
_snapshots = msgspec.msgpack.Decoder(Snapshot)


class Malformed(ValueError):
    """Bytes that are no event; the message says why."""


class Received(NamedTuple):
    """An event in its place in the one order, or a snapshot of what all events up to ``seq`` came to."""

    epoch: int
    """Which start of the control process; sequences begin anew with each."""
    seq: int
    at_s: float
    """The control process's clock: when the event happened, or arrived where its sender's clock differs."""
    event: Event | Snapshot


class Envelope(msgspec.Struct, frozen=True):
    """What can be said of any message, even of a kind that a newer sender added."""

    kind: Annotated[str, msgspec.Meta(max_length=MAX_NAME_CHARACTERS)]
    source: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME_CHARACTERS)]
    source_seq: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


_envelopes = msgspec.msgpack.Decoder(Envelope)


def kind_of(event: type[Event] | Event) -> str:
    """The tag of an event or of its type, by which the stream is subscribed to."""
    return event.__struct_config__.tag


def encode(event: Event | Snapshot) -> bytes:
    return _encoder.encode(event)


def decode(payload: bytes) -> AnyEvent:
    """Read an event.

    Raises:
        Malformed: over :data:`MAX_EVENT_BYTES`, not msgpack, of an unknown kind, or a field of another type.
    """
    if len(payload) > MAX_EVENT_BYTES:
        raise Malformed(f"event has {len(payload)} bytes; at most {MAX_EVENT_BYTES} are accepted")
    try:
        return _events.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error)) from error


def decode_envelope(payload: bytes) -> Envelope:
    """Read who sent a message, where :func:`decode` could not read the rest.

    Raises:
        Malformed: not even that.
    """
    try:
        return _envelopes.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error)) from error


def decode_snapshot(payload: bytes) -> Snapshot:
    """Read a snapshot.

    Raises:
        Malformed: something else.
    """
    try:
        return _snapshots.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(str(error)) from error
