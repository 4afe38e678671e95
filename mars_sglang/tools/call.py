"""``with mars_sglang.tool_call(program, name): ...`` tells the sidecar what runs and for how long."""

import os

from mars_sglang import clock
from mars_sglang.stream.events import ToolEnded, ToolFailed
from mars_sglang.tools.channel import Channel, channel_of_process
from mars_sglang.tools.description import describe, printable
from mars_sglang.tools.messages import CallQueued, CallStarted, Report
from mars_sglang.tools.process import current


def tool_call(
    program: str,
    name: str,
    command: str | None = None,
    *,
    turn: str | None = None,
    api_key: str | None = None,
    authorization: str | None = None,
) -> "ToolCall":
    """Report a tool call: ``with tool_call(...):`` or ``async with tool_call(...):`` around it.

    With no sidecar there it does nothing. What the block raises is reported as a failure, by the
    name of its type, and raised on.

    Args:
        program: the id that the agent's requests carry.
        name: of the tool, as the model called it.
        command: the shell command that it runs, if it does; only the name of its program is sent.
        turn: the request id of the turn that asked for the call, where it is known.
        api_key: what the agent sends as ``Authorization: Bearer API_KEY``; ``MARS_SGLANG_API_KEY`` by default.
        authorization: the header's whole value where it is another, or that of ``x-api-key``.

    Raises:
        TypeError: an argument that is no string.
        ValueError: a program id that no request could have.
    """
    return ToolCall(describe(program, name, command, turn=turn, api_key=api_key, authorization=authorization))


class ToolCall:
    """One call; make another for the next. Calls may be nested and run side by side."""

    def __init__(self, description: dict[str, str | None], channel: Channel | None = None):
        """Args: description: of :func:`mars_sglang.tools.description.describe`."""
        self.id = os.urandom(8).hex()
        self._fields = {**description, "call": self.id}
        self._channel = channel
        self._started_s: float | None = None

    def queue(self) -> "ToolCall":
        """Say that the call waits for a slot of its executor; it starts where its block begins."""
        self._send(CallQueued, clock.now(), process=current())
        return self

    def start(self, at_s: float | None = None) -> None:
        """Begin, now or at a time of :mod:`mars_sglang.clock`, where no ``with`` block fits."""
        self._started_s = clock.now() if at_s is None else at_s
        self._send(CallStarted, self._started_s, process=current())

    def end(self, error: str | None = None) -> None:
        """End well, or with an error of at most 200 characters."""
        now = clock.now()
        duration_s = now - (now if self._started_s is None else self._started_s)
        if error is None:
            self._send(ToolEnded, now, duration_s=duration_s)
        else:
            self._send(ToolFailed, now, duration_s=duration_s, error=printable(error)[:200])

    def _send(self, kind: type[Report], time_s: float, **more) -> None:
        # After a fork the channel is another one.
        (self._channel or channel_of_process()).send(kind(**self._fields, time_s=time_s, **more))

    def __enter__(self) -> "ToolCall":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        self.end(None if kind is None else kind.__name__)

    async def __aenter__(self) -> "ToolCall":
        return self.__enter__()

    async def __aexit__(self, *error) -> None:
        self.__exit__(*error)
