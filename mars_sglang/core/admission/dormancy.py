"""When silence costs a program its place. The same rule for every admission policy."""

from collections.abc import Sequence

from mars_sglang.core.dormancy import Dormancy
from mars_sglang.core.policy import BaseAdmissionPolicy
from mars_sglang.core.views import PoolView, ProgramView


class DormancyAdmission(BaseAdmissionPolicy):
    """Knows who is dormant: silent for as long as :class:`Dormancy` says. It gives its place to one that waits.

    The papers' own harnesses know when a program ends; here a comparison of policies is one of what they do with the
    same guess.
    """

    def __init__(self):
        self._dormancy = Dormancy()

    def observe_pause(self, program: ProgramView, seconds: float) -> None:
        self._dormancy.observe_pause(program, seconds)

    def observe_over(self, program: ProgramView, said: bool, now_s: float) -> None:
        self._dormancy.observe_over(program, said)

    def observe_silence(self, program: ProgramView) -> None:
        """Learn from a program that outlasted its limit: it may be over, and may yet come back."""

    def limit_s(self, p: ProgramView, pool: PoolView) -> float:
        """Silence in seconds after which a program gives up its place to one that waits."""
        return self._dormancy.limit_s(p, pool)

    def dormant(self, admitted: Sequence[ProgramView], pool: PoolView, now_s: float) -> list[ProgramView]:
        """Those of ``admitted`` with nothing in flight and silent for :meth:`limit_s`, longest silent first."""
        silent = [p for p in admitted if not p.in_flight and p.turns and p.idle_s(now_s) >= self.limit_s(p, pool)]
        for p in silent:
            if self._dormancy.observe_silence(p):
                self.observe_silence(p)
        return sorted(silent, key=lambda p: (-p.idle_s(now_s), p.program))
