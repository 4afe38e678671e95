"""What tools send: our messages, NVIDIA Dynamo's, and what is neither."""

import hashlib
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars_sglang.sidecar.reports import MalformedReport, OversizedReport, decode
from mars_sglang.stream.events import ToolEnded, ToolFailed
from mars_sglang.tools.messages import CallStarted
from mars_sglang.tools.process import Process

pack = msgspec.msgpack.encode


def ours(**fields) -> list[bytes]:
    return [pack({"kind": "tool_started", "program": "p", "call": "c", "tool": "bash", **fields})]


def dynamo(event_type: str = "tool_start", context: dict | None = None, **tool) -> list[bytes]:
    record = {
        "schema": "dynamo.agent.trace.v1",
        "event_type": event_type,
        "event_time_unix_ms": 1_800_000_000_000,
        "event_source": "harness",
        "agent_context": context or {"session_type_id": "coder", "session_id": "run", "trajectory_id": "run:child"},
        "tool": {"tool_call_id": "call_0", "tool_class": "web_search", **tool},
    }
    return [b"tools", (1).to_bytes(8), pack(record)]


def test_our_own_message_with_its_process():
    process = Process("kernel", 12, 34)
    sent = CallStarted(program="p", call="c", tool="bash", process=process)
    assert decode([pack(sent)]) == sent


def test_a_plain_event_of_the_stream_is_enough():
    report = decode(ours())
    assert isinstance(report, CallStarted) and report.process is None


def test_dynamos_start_belongs_to_the_trajectory():
    report = decode(dynamo(started_at_unix_ms=1_800_000_000_000, status="running"))
    assert isinstance(report, CallStarted)
    assert (report.program, report.tool) == ("run:child", "web_search")
    assert report.call.startswith("call_0@")


def test_dynamos_call_ids_are_told_apart_by_their_program():
    other = decode(dynamo(context={"session_id": "other"}))
    assert other.call != decode(dynamo()).call == decode(dynamo("tool_end")).call


def test_dynamos_context_without_a_trajectory_is_its_session():
    assert decode(dynamo(context={"session_id": "run"})).program == "run"


def test_dynamos_end_tells_the_duration():
    assert decode(dynamo("tool_end", duration_ms=1500.0, status="succeeded")).duration_s == 1.5
    assert decode(dynamo("tool_end", duration_ms=1500)).duration_s == 1.5
    assert decode(dynamo("tool_end", started_at_unix_ms=1000, ended_at_unix_ms=3500)).duration_s == 2.5
    assert decode(dynamo("tool_end", duration_ms=1500.0), speed=10.0).duration_s == 15.0


@pytest.mark.parametrize(
    ("event_type", "tool", "error"),
    [
        ("tool_error", {"error_type": "Timeout", "status": "error"}, "Timeout"),
        ("tool_error", {}, "error"),
        ("tool_end", {"status": "cancelled"}, "cancelled"),
    ],
)
def test_dynamos_failures(event_type, tool, error):
    report = decode(dynamo(event_type, **tool))
    assert isinstance(report, ToolFailed) and report.error == error


def test_dynamos_programs_are_scoped_like_the_requests_of_their_tenant():
    digest = hashlib.sha256(b"Bearer key").hexdigest()[:12]
    assert decode(dynamo(), authorization="Bearer key").program == f"{digest}/run:child"


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"\xc1"],
        [pack(7)],
        [pack({"kind": "heartbeat"})],
        [pack({"kind": "turn_ended", "program": "p"})],
        [b"a", b"b"],
        [b"", b"1234567", dynamo()[2]],
        [b"", (1).to_bytes(8), b"x"],
        [*dynamo(), b""],
        ours(program=None),
        ours(program=""),
        ours(program="a\nb"),
        ours(call=""),
        ours(tool="x" * 400),
        ours(program=7),
        ours(time_s=math.nan),
        [pack({"kind": "tool_ended", "program": "p", "call": "c", "tool": "t", "duration_s": math.inf})],
        [pack({"kind": "tool_ended", "program": "p", "call": "c", "tool": "t", "duration_s": -1.0})],
        dynamo("request_end"),
        dynamo(context={"trajectory_id": "x" * 257}),
        dynamo(context={"session_type_id": "coder"}),
        dynamo(tool_call_id=""),
        dynamo("tool_end", duration_ms=math.nan),
        dynamo("tool_end", duration_ms=-5.0),
        [b"\x81\xa4kind\xa1\xff"],
        [b"\x82\xa4kind\xactool_started\xa1x" + b"\x91" * 60_000],
    ],
)
def test_what_is_no_report_is_malformed(frames):
    with pytest.raises(MalformedReport):
        decode(frames)


@given(st.lists(st.binary(max_size=64), max_size=4))
def test_bytes_at_random_are_malformed_and_nothing_worse(frames):
    with pytest.raises(MalformedReport):
        decode(frames)


def test_a_message_over_the_limit_is_oversized_however_it_is_cut():
    with pytest.raises(OversizedReport):
        decode(ours(command="x" * 70_000))
    with pytest.raises(OversizedReport):
        decode([b"x" * 40_000, (1).to_bytes(8), b"x" * 40_000])


def test_a_longest_program_with_its_tenants_mark_is_accepted():
    assert decode(ours(program="f" * 12 + "/" + "p" * 256)).program
    assert isinstance(decode([pack(ToolEnded(program="p", call="c", tool="t", duration_s=1.0))]), ToolEnded)
