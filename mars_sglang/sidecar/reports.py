"""Bytes that tools send, read into reports: our own single frame, or the three of NVIDIA Dynamo's agents."""

import hashlib
import math
from typing import Annotated, Literal

import msgspec

from mars_sglang.stream.events import ToolEnded, ToolFailed
from mars_sglang.stream.tenant import scoped
from mars_sglang.tools.endpoint import MAX_REPORT_BYTES
from mars_sglang.tools.messages import CallStarted, Report

MAX_ID_CHARACTERS = 256

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_CHARACTERS)]


class MalformedReport(ValueError):
    """Frames that are no report; the message says why."""


class OversizedReport(MalformedReport):
    """More bytes than any report has."""


class _Context(msgspec.Struct):
    session_id: _Id | None = None
    trajectory_id: _Id | None = None


class _Tool(msgspec.Struct):
    tool_call_id: _Id
    tool_class: _Id
    status: str | None = None
    started_at_unix_ms: float | None = None
    ended_at_unix_ms: float | None = None
    duration_ms: float | None = None
    error_type: str | None = None


class _Record(msgspec.Struct):
    event_type: Literal["tool_start", "tool_end", "tool_error"]
    agent_context: _Context
    tool: _Tool


_reports = msgspec.msgpack.Decoder(Report)
_records = msgspec.msgpack.Decoder(_Record)


def decode(frames: list[bytes], *, authorization: str | None = None, speed: float = 1.0) -> Report:
    """Read one message.

    Args:
        authorization: what tells the tenant, for Dynamo's frames, which do not.
        speed: seconds of our clock in a real second, for Dynamo's durations.

    Raises:
        OversizedReport: more than :data:`MAX_REPORT_BYTES`.
        MalformedReport: no report, an id too long, missing or not printable, or a duration that is none.
    """
    if sum(map(len, frames)) > MAX_REPORT_BYTES:
        raise OversizedReport(f"a message has more than {MAX_REPORT_BYTES} bytes")
    try:
        if len(frames) == 1:
            report = _reports.decode(frames[0])
        elif len(frames) == 3 and len(frames[1]) == 8:
            report = _from_dynamo(_records.decode(frames[2]), authorization, speed)
        else:
            raise MalformedReport(f"{len(frames)} frames; accepted: one, or [topic, sequence in 8 bytes, msgpack]")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedReport(str(error)) from error
    for name in ("program", "call", "tool"):
        value = getattr(report, name)
        if not value or not value.isprintable():
            raise MalformedReport(f"{name} is {value!r}; it has to be printable characters")
    duration_s = getattr(report, "duration_s", 0.0)
    if not (math.isfinite(duration_s) and duration_s >= 0.0 and math.isfinite(report.time_s)):
        raise MalformedReport(f"duration_s is {duration_s} at {report.time_s}")
    return report


def _from_dynamo(record: _Record, authorization: str | None, speed: float) -> Report:
    tool = record.tool
    # A child's id wins over its root's, as with requests.
    program = record.agent_context.trajectory_id or record.agent_context.session_id
    if program is None:
        raise MalformedReport("agent_context has neither trajectory_id nor session_id")
    program = scoped(program, authorization)
    # Agents count their calls from 0 each; on the stream an id is one call of this sidecar.
    mark = hashlib.sha256(f"{program}\0{tool.tool_call_id}".encode()).hexdigest()[:12]
    said = {"program": program, "call": f"{tool.tool_call_id}@{mark}", "tool": tool.tool_class}
    if record.event_type == "tool_start":
        return CallStarted(**said)
    duration_ms = tool.duration_ms
    if duration_ms is None and tool.started_at_unix_ms is not None and tool.ended_at_unix_ms is not None:
        duration_ms = max(0.0, tool.ended_at_unix_ms - tool.started_at_unix_ms)
    said["duration_s"] = (duration_ms or 0.0) / 1000 * speed
    if record.event_type == "tool_end" and tool.status in (None, "succeeded", "success", "ok"):
        return ToolEnded(**said)
    return ToolFailed(**said, error=(tool.error_type or tool.status or "error")[:200])
