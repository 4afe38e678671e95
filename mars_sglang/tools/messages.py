"""What a tool's process tells the sidecar: the stream's own events, and a few fields more.

Each is one frame of msgpack. A sender that knows nothing of this file may send a plain
``tool_started``, ``tool_ended`` or ``tool_failed``.
"""

from mars_sglang.stream.events import ToolEnded, ToolFailed, ToolStarted
from mars_sglang.tools.process import Process


class CallStarted(ToolStarted, tag="tool_started", frozen=True, kw_only=True, omit_defaults=True):
    """A call runs. The sidecar watches its process and reports a call of which the process vanished."""

    process: Process | None = None


class CallQueued(CallStarted, tag="tool_queued", frozen=True, kw_only=True, omit_defaults=True):
    """A call waits for a slot of its executor. Goes no further than the sidecar."""


Report = CallStarted | CallQueued | ToolEnded | ToolFailed
