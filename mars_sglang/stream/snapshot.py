"""What a reader that lost its place asks for: all that the events up to a sequence came to."""

import msgspec

from mars_sglang.stream.events import ExecutorLoad, ProgramState, ToolCallState

#: Programs in one snapshot, those heard of last; more would hold up the stream while they are written.
MAX_SNAPSHOT_PROGRAMS = 10_000


class ExecutorState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An executor's last word."""

    load: ExecutorLoad
    at_s: float = 0.0
    stale: bool = False
    """Heard of longer than 2 real seconds ago: how busy it is now is unknown."""


class Snapshot(msgspec.Struct, tag_field="kind", tag="snapshot", frozen=True, kw_only=True, omit_defaults=True):
    """State of the control process, valid right after the event with sequence ``seq`` of ``epoch``."""

    epoch: int = 0
    seq: int = 0
    at_s: float = 0.0
    topics: dict[str, int] = {}
    """Sequence of each topic at ``seq``."""
    programs: tuple[ProgramState, ...] = ()
    """Those heard of last, the latest first."""
    programs_left_out: int = 0
    tool_calls: tuple[ToolCallState, ...] = ()
    executors: tuple[ExecutorState, ...] = ()
    counters: dict[str, int] = {}
