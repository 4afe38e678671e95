"""How often a waiting program that does not fit may be passed by those behind it."""

from collections.abc import Sequence

from mars_sglang.core.views import ProgramView

#: How many waiting programs that do not fit may be passed in one decision.
MAX_MISSES = 4

#: How many later programs may start before one that waits. With it, a program too large
#: for the room there is now waits for at most this many others, then for those inside.
MAX_PASSED_OVER = 32

#: Waiting programs of which it is remembered how often they were passed, before those that went away are forgotten.
MAX_REMEMBERED = 1024


class PassedOver:
    """Remembers it from one decision to the next."""

    def __init__(self):
        self._times: dict[str, int] = {}
        """How many programs behind it were admitted, by waiting program that was passed."""

    def ends_queue(self, missed: Sequence[str]) -> bool:
        """Whether nobody behind the last of ``missed``, which did not fit in this decision, may start in it."""
        return len(missed) >= MAX_MISSES or self._times.get(missed[-1], 0) >= MAX_PASSED_OVER

    def count(self, missed: Sequence[str]) -> None:
        """One behind them starts."""
        for program in missed:
            self._times[program] = self._times.get(program, 0) + 1

    def settle(self, admit: Sequence[str], waiting: Sequence[ProgramView]) -> None:
        """The decision is made: these of the waiting ones start."""
        for program in admit:
            self._times.pop(program, None)
        if len(self._times) > MAX_REMEMBERED:
            # Not at every decision: it may be shown a part of those that wait.
            still = {p.program for p in waiting}
            self._times = {name: times for name, times in self._times.items() if name in still}
