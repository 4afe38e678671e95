"""Programs that are silent for so long that they are taken for over. The same rule for every admission policy."""

from collections import deque
from collections.abc import Sequence

from mars_sglang.core.policy import BaseAdmissionPolicy
from mars_sglang.core.views import ProgramView

#: Silence counts as the end of a program once it is longer than this share of all pauses.
DORMANT_QUANTILE = 0.98
#: Bounds of that time in seconds; the upper one holds until enough pauses were seen.
DORMANT_MIN_S, DORMANT_MAX_S = 3.0, 30.0
_PAUSES_KEPT, _PAUSES_NEEDED = 1024, 64


class DormancyAdmission(BaseAdmissionPolicy):
    """Knows who is dormant.

    No server learns from an unmodified agent that a program is over. So a program that has
    been silent longer than nearly every pause seen gives its place to one that waits; if it
    comes back it is a continuation. The papers' own harnesses know when a program ends; here
    a comparison of policies is one of what they do with the same guess.
    """

    def __init__(self):
        self._pauses: deque[float] = deque(maxlen=_PAUSES_KEPT)
        self._unsorted = 0
        self._dormant_s = DORMANT_MAX_S

    def observe_pause(self, seconds: float) -> None:
        self._pauses.append(seconds)
        self._unsorted += 1
        # Sorted once per 32 pauses: the quantile moves slowly and the gate is on the request path.
        if len(self._pauses) >= _PAUSES_NEEDED and self._unsorted >= 32:
            self._unsorted = 0
            ranked = sorted(self._pauses)
            pause_s = ranked[int(DORMANT_QUANTILE * (len(ranked) - 1))]
            self._dormant_s = min(max(pause_s, DORMANT_MIN_S), DORMANT_MAX_S)

    @property
    def dormant_s(self) -> float:
        """Silence in seconds after which a program gives up its place to one that waits."""
        return self._dormant_s

    def dormant(self, admitted: Sequence[ProgramView]) -> list[ProgramView]:
        """Those of ``admitted`` with nothing in flight and silent for :attr:`dormant_s`, longest silent first."""
        silent = (p for p in admitted if not p.in_flight and p.idle_s >= self.dormant_s)
        return sorted(silent, key=lambda p: (-p.idle_s, p.program))
