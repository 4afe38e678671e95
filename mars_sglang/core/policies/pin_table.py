"""Pins with a deadline: whose KV is locked during a tool call, and until when."""

from dataclasses import dataclass

from mars_sglang.core.policies.bounded_table import BoundedTable
from mars_sglang.core.views import ContextState, ContextView


@dataclass(slots=True)
class _Pin:
    until_s: float = 0.0
    returned: bool = False
    """Whether the program's next turn came before the deadline."""


class PinTable:
    """The life of a pin, as Continuum and InferCept have it.

    It begins when a turn ends. At its deadline it is gone, unless the next turn of the program came
    before: then it lasts until that turn starts, whatever the clock says.
    """

    def __init__(self):
        self._pins: BoundedTable[_Pin] = BoundedTable(_Pin)

    def pin(self, program: str, until_s: float) -> None:
        """Pin, or move the deadline of a pin."""
        self._pins.touch(program).until_s = until_s

    def came_back(self, program: str, now_s: float) -> None:
        """A turn of the program is in the queue."""
        pin = self._pins.get(program)
        if pin is None:
            return
        if now_s < pin.until_s:
            pin.returned = True
        elif not pin.returned:
            self._pins.pop(program)

    def drop(self, program: str) -> None:
        self._pins.pop(program)

    def until_s(self, program: str | None) -> float | None:
        """Deadline of a pin that is there, or was until its deadline; None without one."""
        pin = self._pins.get(program)
        return None if pin is None else pin.until_s

    def holds(self, program: str | None, waiting: bool, now_s: float) -> bool:
        """Whether the program is pinned now.

        Args:
            waiting: whether a turn of it waits. Asked for, and not remembered: a turn that is aborted in
                the queue says nothing, and must not leave a pin for ever.
        """
        pin = self._pins.get(program)
        return pin is not None and (now_s < pin.until_s or (pin.returned and waiting))

    def holds_context(self, context: ContextView, now_s: float) -> bool:
        """Whether the context's program is pinned now. Not one that admission paused: its KV is to go first."""
        if context.state == ContextState.PAUSED:
            return False
        return self.holds(context.program, context.state == ContextState.WAITING, now_s)
