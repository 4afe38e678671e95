"""What keeps readers whole: when a source must tell its state again, and in what parts."""

from collections.abc import Iterable, Iterator

import msgspec

from mars_sglang.stream.codec import MAX_EVENT_BYTES, encode
from mars_sglang.stream.events import GateSettings, Heartbeat, ProgramState, SourceState, ToolCallState, TurnState

#: Room for the source's name and the other fields around what a part lists.
_AROUND_BYTES = 2048
#: What one item of a list may take.
_MOST_BYTES = MAX_EVENT_BYTES - 3 * _AROUND_BYTES


class Resync:
    """Tells a source when the control process lacks its state. Give it each :class:`Heartbeat` heard."""

    def __init__(self, source: str):
        """``source`` is :attr:`mars_sglang.stream.publisher.Publisher.source`."""
        self._source = source
        self._epoch: int | None = None

    def due(self, heartbeat: Heartbeat) -> bool:
        """Whether the source should now publish :func:`state_parts`: the process is new, or lost messages."""
        new = heartbeat.epoch != self._epoch
        self._epoch = heartbeat.epoch
        return new or self._source in heartbeat.resend


def state_parts(
    role: str,
    programs: Iterable[ProgramState] = (),
    tool_calls: Iterable[ToolCallState] = (),
    under_way: tuple[TurnState, ...] = (),
    gate: GateSettings | None = None,
) -> Iterator[SourceState]:
    """Cut a source's state into events that are small enough; publish them in one run, in order.

    An empty state is one empty part: it says that nothing is going on.

    Args:
        under_way: turns without a program. Of these, and of one program's, the newest are told, as many as fit into one
            event.
    """
    part, held, size = 0, ([], []), _AROUND_BYTES
    for kind, items in enumerate((programs, tool_calls)):
        for item in items:
            added = len(encode(item))
            if kind == 0 and added > _MOST_BYTES:
                item = msgspec.structs.replace(item, under_way=_fitting(item.under_way, _MOST_BYTES))
                added = len(encode(item))
            if size + added > MAX_EVENT_BYTES and (held[0] or held[1]):
                yield SourceState(role=role, part=part, programs=tuple(held[0]), tool_calls=tuple(held[1]), done=False)
                part, held, size = part + 1, ([], []), _AROUND_BYTES
            held[kind].append(item)
            size += added
    if under_way or gate is not None:
        # A part of its own, so that the parts before it may be as large as they can.
        yield SourceState(role=role, part=part, programs=tuple(held[0]), tool_calls=tuple(held[1]), done=False)
        room = _MOST_BYTES - len(encode(gate))
        yield SourceState(role=role, part=part + 1, under_way=_fitting(under_way, room), gate=gate, done=True)
        return
    yield SourceState(role=role, part=part, programs=tuple(held[0]), tool_calls=tuple(held[1]), done=True)


def _fitting(turns: tuple[TurnState, ...], room: int) -> tuple[TurnState, ...]:
    """The newest, as many as have room, in bytes."""
    left, first = room, len(turns)
    for turn in reversed(turns):
        left -= len(encode(turn))
        if left < 0:
            break
        first -= 1
    return turns[first:]
