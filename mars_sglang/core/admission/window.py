"""A window of fixed size: so many programs at a time, first come first served."""

from collections.abc import Sequence

from mars_sglang.core.admission.dormancy import DormancyAdmission
from mars_sglang.core.policy import register_admission_policy
from mars_sglang.core.views import AdmissionDecision, PoolView, ProgramView


@register_admission_policy
class WindowAdmission(DormancyAdmission):
    """At most ``programs`` inside, tools included, whatever they hold.

    What an operator gets from a concurrency limit in front of an engine. Nobody is paused
    but the dormant, and those only for one that waits.

    Args:
        programs: the size of the window, 1 or more.

    Raises:
        ValueError: a window smaller than 1.
    """

    name = "window"
    argument = "N"

    def __init__(self, programs: int):
        super().__init__()
        if programs < 1:
            raise ValueError(f"a window of {programs} programs; accepted: 1 or more")
        self.name = f"window:{programs}"
        self._programs = programs

    @classmethod
    def from_text(cls, text: str) -> "WindowAdmission":
        """The policy of ``window:TEXT``.

        Raises:
            ValueError: anything but a whole number, 1 or more.
        """
        if not (text.isascii() and text.isdigit() and int(text) >= 1):
            raise ValueError(f"admission policy 'window' with N {text!r}; accepted: window:N, N a whole number from 1")
        return cls(int(text))

    def decide(
        self,
        admitted: Sequence[ProgramView],
        waiting: Sequence[ProgramView],
        pool: PoolView,
        now_s: float,
    ) -> AdmissionDecision:
        queue = sorted(waiting, key=lambda p: (p.arrived_s, p.program))
        missing = len(admitted) + len(queue) - self._programs
        pause = self.dormant(admitted, pool, now_s)[: max(0, missing)] if queue else []
        room = self._programs - (len(admitted) - len(pause))
        return AdmissionDecision(
            pause=tuple(p.program for p in pause), admit=tuple(p.program for p in queue[: max(0, room)])
        )
