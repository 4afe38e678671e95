"""The wire shapes: bytes that stood once, and what a reader makes of a newer or older sender's."""

from typing import get_args

import msgspec
import pytest

from mars_sglang.stream.codec import (
    MAX_EVENT_BYTES,
    Malformed,
    decode,
    decode_envelope,
    decode_snapshot,
    encode,
    kind_of,
)
from mars_sglang.stream.events import MAX_NAME_CHARACTERS, AnyEvent, FirstToken, TurnEnded
from mars_sglang.stream.snapshot import Snapshot
from tests.stream.golden import COMMON, EARLIER, GOLDEN

KINDS = get_args(AnyEvent)


@pytest.mark.parametrize(("message", "golden"), GOLDEN, ids=lambda value: getattr(type(value), "__name__", ""))
def test_a_message_has_the_bytes_that_it_always_had(message, golden):
    assert encode(message).hex() == golden
    read = decode_snapshot if isinstance(message, Snapshot) else decode
    assert read(bytes.fromhex(golden)) == message


@pytest.mark.parametrize(("message", "earlier"), EARLIER, ids=lambda value: getattr(type(value), "__name__", ""))
def test_what_an_earlier_version_wrote_is_the_same_map_and_read_as_before(message, earlier):
    assert decode(bytes.fromhex(earlier)) == message
    assert msgspec.msgpack.decode(encode(message)) == msgspec.msgpack.decode(bytes.fromhex(earlier))


def test_there_are_golden_bytes_of_every_kind_with_no_field_at_its_default():
    unset = {kind: {field.name for field in msgspec.structs.fields(kind)} for kind in (*KINDS, Snapshot)}
    for message, _ in GOLDEN:
        unset[type(message)] &= {
            field.name
            for field in msgspec.structs.fields(message)
            if not field.required and getattr(message, field.name) == field.default
        }
    assert not {kind: names for kind, names in unset.items() if names}


def test_no_kind_begins_with_another_for_topics_match_by_prefix():
    names = sorted(kind_of(kind) for kind in KINDS)
    assert not [(a, b) for a in names for b in names if a != b and b.startswith(a)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_that_a_newer_sender_added_is_ignored(kind):
    said = {**msgspec.to_builtins(kind(**COMMON)), "added_later": {"a": [1]}}
    assert decode(msgspec.msgpack.encode(said)) == kind(**COMMON)


@pytest.mark.parametrize("kind", KINDS)
def test_fields_that_a_sender_leaves_out_are_at_their_default(kind):
    assert decode(msgspec.msgpack.encode({"kind": kind_of(kind)})) == kind()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"no msgpack",
        b"\x81\xa4kind\xa4\xff\xff\xff\xff",
        msgspec.msgpack.encode({"kind": "of a newer sender"}),
        msgspec.msgpack.encode({"source": "no kind"}),
        msgspec.msgpack.encode({"kind": "turn_ended", "prompt_tokens": "many"}),
        msgspec.msgpack.encode(["turn_ended"]),
        encode(TurnEnded(program="p" * (MAX_NAME_CHARACTERS + 1))),
        encode(TurnEnded()) + b"more",
        msgspec.msgpack.encode({"kind": "turn_ended", "padding": "x" * MAX_EVENT_BYTES}),
    ],
)
def test_what_is_no_event_is_malformed(payload):
    with pytest.raises(Malformed):
        decode(payload)


def test_who_sent_an_event_of_an_unknown_kind_can_still_be_read():
    envelope = decode_envelope(msgspec.msgpack.encode({"kind": "newer", "source": "s:h:1:2", "source_seq": 4, "x": 1}))
    assert (envelope.kind, envelope.source, envelope.source_seq) == ("newer", "s:h:1:2", 4)


def test_a_name_may_be_as_long_as_an_id_with_its_tenant():
    assert decode(encode(FirstToken(program="é" * (256 + 13)))).program == "é" * 269


def test_a_message_of_nothing_but_nested_lists_is_malformed_and_no_crash():
    with pytest.raises(Malformed):
        decode(b"\x91" * (MAX_EVENT_BYTES - 1) + b"\xc0")
