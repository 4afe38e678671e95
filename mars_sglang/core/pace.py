"""How fast a program is with a tool, compared with the other programs that use it.

A program's pauses end at the hazard of their kind times its pace, which is gamma distributed over programs with mean 1
and variance ``1 / k``, ``k = PACE_PRIOR`` (shared frailty; Clayton, Biometrika 65, 1978). With ``A(t)`` the cumulative
hazard at pace 1, the survival over all programs is ``(1 + A / k) ** -k``. Of a program of which ``n`` pauses ended
after exposures that sum to ``E = sum A(T_i)``, it is ``(1 + A / (k + E)) ** -(k + n)``.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np

PACE_PRIOR = 8.0
"""Pauses of its own that tell as much of a program as that it is one of all. 4 is slightly better on recorded programs
and worse where programs do not differ; 16 the other way round."""

PACE_MEMORY = 0.9
"""What one more pause leaves of the earlier ones: about a program's last ten tell its pace. 0.8 to 0.95 were alike."""

MAX_PROGRAM_NAME = 512
"""Characters of a program's id that count; longer than any that the server lets in."""

MAX_NAME = 64
"""Characters of a tool or command that count. Names come from clients."""

Owner = tuple[str, str]


def owner_of(program: str, tool: str) -> Owner:
    return program[:MAX_PROGRAM_NAME], tool[:MAX_NAME]


class Paces:
    """Two numbers per owner, for at most so many of them; those not heard from for longest are forgotten.

    An owner is a program and a tool: a person at the end of a turn is not quick because the program's tools are.
    """

    def __init__(self, max_paces: int):
        if max_paces < 1:
            raise ValueError(f"max_paces: {max_paces!r}; accepted: a whole number of at least 1")
        self._max_paces = max_paces
        self._known: OrderedDict[Owner, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def paced(self, survival: np.ndarray, owner: Owner | None) -> np.ndarray:
        """The survival of this owner's pauses, from that of all programs' pauses of the kind; same shape."""
        known = None if owner is None else self._known.get(owner)
        if known is None:
            return survival
        ended, exposed = known
        cumulative = PACE_PRIOR * (survival ** (-1.0 / PACE_PRIOR) - 1.0)
        return (1.0 + cumulative / (PACE_PRIOR + exposed)) ** -(PACE_PRIOR + ended)

    def learn_end(
        self, owner: Owner, survival: np.ndarray, first: int, shares: Iterable[tuple[int, float]], *, new: bool
    ) -> None:
        """A pause of the owner ended: in which buckets, with which shares. It was told of up to bucket ``first``.

        Args:
            survival: over all programs, at the edges of the buckets.
            new: whether it was not told of before.
        """
        buckets = len(survival) - 1
        before = _exposure(survival[first])
        ended = exposed = 0.0
        for bucket, share in shares:
            if bucket < buckets:
                ended += share
                exposed += share * max(0.0, _mean_exposure(survival[bucket], survival[bucket + 1]) - before)
            else:
                exposed += share * (_exposure(survival[-1]) - before)
        self._add(owner, ended, exposed, new)

    def learn_silence(self, owner: Owner, survival: np.ndarray, first: int, last: int, *, new: bool) -> None:
        """A pause of the owner went on from bucket ``first`` to ``last``."""
        self._add(owner, 0.0, max(0.0, _exposure(survival[last]) - _exposure(survival[first])), new)

    def to_state(self) -> list:
        return [[*owner, ended, exposed] for owner, (ended, exposed) in self._known.items()]

    def load_state(self, rows: list) -> None:
        """Take over what :meth:`to_state` gave.

        Raises:
            TypeError, ValueError: it is not that.
        """
        for program, tool, ended, exposed in rows:
            if not (isinstance(program, str) and isinstance(tool, str)):
                raise TypeError(f"{program!r} with {tool!r} are no names")
            if not (0 <= ended < math.inf and 0 <= exposed < math.inf):
                raise ValueError(f"{program!r} with {tool!r} has {ended!r} and {exposed!r}; accepted: 0 or more")
            self._known[owner_of(program, tool)] = float(ended), float(exposed)
        self._trim()

    def _add(self, owner: Owner, ended: float, exposed: float, new: bool) -> None:
        known_ended, known_exposed = self._known.pop(owner, (0.0, 0.0))
        keep = PACE_MEMORY if new else 1.0
        self._known[owner] = known_ended * keep + ended, known_exposed * keep + exposed
        self._trim()

    def _trim(self) -> None:
        while len(self._known) > self._max_paces:
            self._known.popitem(last=False)


def _exposure(survival: float) -> float:
    """Cumulative hazard at pace 1 when this share of all programs' pauses still goes on."""
    return PACE_PRIOR * (float(survival) ** (-1.0 / PACE_PRIOR) - 1.0)


def _mean_exposure(high: float, low: float) -> float:
    """Mean of :func:`_exposure` over the pauses that end while the survival falls from ``high`` to ``low``."""
    high, low = float(high), float(low)
    # Below this the difference of powers loses its digits.
    if high - low < 1e-6 * high:
        return _exposure(high)
    power = 1.0 - 1.0 / PACE_PRIOR
    return PACE_PRIOR * ((high**power - low**power) / (power * (high - low)) - 1.0)
