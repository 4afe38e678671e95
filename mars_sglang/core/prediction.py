"""Learns online how long programs are silent between two turns, and forecasts how long this silence lasts.

* **Discrete hazards.** Time is cut into buckets (:data:`~mars_sglang.core.pauses.EDGES_S`). Per key and bucket two
  numbers are kept: pauses that reached the bucket, and those of them that ended in it. Their ratio is the hazard, the
  product of ``1 - hazard`` the survival function (Kaplan and Meier, JASA 53, 1958). A pause that is still going on,
  or whose program went away, counts as reached up to there; one that never ends counts in all buckets.
* **Falling back.** Command to tool to everything to a prior: ``h = (ended + K h_coarser) / (reached + K)``, the
  posterior mean of a beta process with the coarser hazard for its centre (Hjort, Annals of Statistics 18, 1990). It works per
  bucket: a command with many short pauses and few long ones is itself in the short ones, its tool in the long ones.
* **Pace.** Programs differ by a factor on the hazard, gamma distributed with mean 1 and variance ``1 / PACE_PRIOR``
  (shared frailty; Clayton, Biometrika 65, 1978), of which a program's own pauses tell: two numbers each.
* **Load.** Learned and kept are pauses without load; :class:`~mars_sglang.core.pauses.LoadAt` says what load adds. Where
  the wait is not known exactly, a pause is shared out over the likely waits by how well each explains it, a step of
  online expectation maximisation (Cappé and Moulines, JRSS B 71, 2009).

Every update and query costs a fixed number of operations on arrays of one length.
"""

import math
from collections import OrderedDict

import numpy as np

from mars_sglang.core.pauses import BUCKETS, EDGES_S, NO_LOAD, LoadAt, PauseForecast, PauseKey, bucket_of

SHRINKAGE = 16.0
"""``K``: pauses that a key must have at a bucket to weigh as much as its fall-back. 8 to 32 were alike."""

HALF_LIFE = 2000.0
"""A key's pauses after which what it knew counts half. 1000 to 5000 were alike."""

PACE_PRIOR = 8.0
PACE_MEMORY = 0.9
"""What one more pause of a program leaves of its earlier ones: about its last ten tell its pace."""

MAX_KEYS = 1024
"""Commands and tools remembered, 2.6 KB each; the ones not seen for longest are forgotten."""
MAX_PROGRAMS = 16_384
"""Programs of which the pace is remembered; forgotten likewise."""
MAX_NAME = 64
"""Characters of a tool or command that count. Names come from clients."""
MAX_PROGRAM_NAME = 512

STATE_VERSION = 1

# Log-logistic through the published median (0.3 s) and 90th percentile (13.6 s) of 432 thousand tool calls
# (TraceLab); it also meets their published share over a minute, 4.9%.
_PRIOR_SURVIVAL = 1.0 / (1.0 + (EDGES_S / 0.3) ** (math.log(9.0) / math.log(13.6 / 0.3)))
_PRIOR_HAZARD = 1.0 - _PRIOR_SURVIVAL[1:] / _PRIOR_SURVIVAL[:-1]

_DECAY = 0.5 ** (1.0 / HALF_LIFE)

_Name = tuple[str, ...]
"""Of a level: ``()``, ``(tool,)`` or ``(tool, command)``."""


class PredictionStateError(ValueError):
    """A saved state that cannot be loaded; the message says what is wrong with it."""


class _Level:
    """Pauses of one key per bucket, older ones counting less."""

    __slots__ = ("ended", "reached")

    def __init__(self, ended: np.ndarray | None = None, reached: np.ndarray | None = None):
        self.ended = np.zeros(BUCKETS) if ended is None else ended
        self.reached = np.zeros(BUCKETS) if reached is None else reached


class PausePredictor:
    """Forecasts of pauses. Deterministic; :meth:`predict` changes nothing.

    A pause is told of once it ended (:meth:`observe`), and may be told of while it lasts (:meth:`still_out`), which
    keeps a predictor from believing, while the long pauses are still going on, that there are only short ones.
    ``since_s`` is how long it had lasted when it was last told of.
    """

    def __init__(self, *, max_keys: int = MAX_KEYS, max_programs: int = MAX_PROGRAMS):
        for name, value in (("max_keys", max_keys), ("max_programs", max_programs)):
            if value < 1:
                raise ValueError(f"{name}: {value!r}; accepted: a whole number of at least 1")
        self._max_keys = max_keys
        self._max_programs = max_programs
        self._root = _Level()
        self._levels: OrderedDict[_Name, _Level] = OrderedDict()
        self._paces: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Per program: pauses ended, and the cumulative hazard that they were exposed to."""

    def __len__(self) -> int:
        """Keys remembered."""
        return len(self._levels)

    @property
    def programs(self) -> int:
        """Programs of which the pace is remembered."""
        return len(self._paces)

    def predict(self, key: PauseKey, elapsed_s: float = 0.0, load: LoadAt = NO_LOAD) -> PauseForecast:
        """The distribution of a pause of this key that has lasted ``elapsed_s``, its executor loaded as said."""
        _check_seconds("elapsed_s", elapsed_s)
        names = _names(key)
        survival = self._paced(_survival(self._hazard(names)), key.program)
        if load != NO_LOAD:
            waits = load.waits_s()
            unloaded = [np.interp((EDGES_S - wait) / load.slowdown, EDGES_S, survival) for wait in waits]
            survival = sum(unloaded) / len(waits)
        survival.flags.writeable = False
        return PauseForecast(elapsed_s, self._dominant(names, _unloaded(elapsed_s, load)), survival)

    def observe(self, key: PauseKey, seconds: float, load: LoadAt = NO_LOAD, since_s: float = 0.0) -> None:
        """Learn from a pause that ended after ``seconds``."""
        _check_seconds("seconds", seconds)
        self._check_since(since_s)
        shares = self._explained(key, seconds, load)
        first = bucket_of(_unloaded(since_s, load))
        names = _names(key)
        survival = _survival(self._hazard(names))
        self._age(names, key.program, new=not since_s)
        for level in self._touched(names):
            for bucket, share in shares:
                level.reached[min(first, bucket) : bucket + 1] += share
                if bucket < BUCKETS:
                    level.ended[bucket] += share
        self._learn_pace(key.program, survival, first, shares)

    def still_out(self, key: PauseKey, seconds: float, load: LoadAt = NO_LOAD, since_s: float = 0.0) -> None:
        """Learn that a pause has lasted ``seconds`` and not ended; infinite for one that never will.

        After it, the pause may be forgotten, as of a program that went dormant, or told of again.
        """
        if not seconds >= 0:
            raise ValueError(f"seconds: {seconds!r}; accepted: 0 or more, or infinite")
        self._check_since(since_s)
        first, last = (bucket_of(_unloaded(at, load)) for at in (since_s, seconds))
        names = _names(key)
        survival = _survival(self._hazard(names))
        self._age(names, key.program, new=not since_s)
        for level in self._touched(names):
            level.reached[first:last] += 1.0
        # A pause without end says that the program is over, not that it is slow.
        if key.program is not None and seconds < math.inf:
            ended, exposed = self._paces[key.program[:MAX_PROGRAM_NAME]]
            exposed += max(0.0, _exposure(survival[last]) - _exposure(survival[min(first, last)]))
            self._paces[key.program[:MAX_PROGRAM_NAME]] = ended, exposed

    def forget_program(self, program: str) -> None:
        """It is over: its pace is of no more use."""
        self._paces.pop(program[:MAX_PROGRAM_NAME], None)

    def to_state(self) -> dict:
        """All that was learned, in plain lists, dictionaries, strings and floats."""
        levels = [((), self._root), *self._levels.items()]
        return {
            "version": STATE_VERSION,
            "buckets": BUCKETS,
            "keys": [[list(name), level.ended.tolist(), level.reached.tolist()] for name, level in levels],
            "programs": [[program, ended, exposed] for program, (ended, exposed) in self._paces.items()],
        }

    @classmethod
    def from_state(cls, state: dict, *, max_keys: int = MAX_KEYS, max_programs: int = MAX_PROGRAMS) -> "PausePredictor":
        """A predictor that goes on from a saved state, the newest keys and programs of it if it holds too many.

        Raises:
            PredictionStateError: of another version, or not what :meth:`to_state` gives.
        """
        if not isinstance(state, dict):
            raise PredictionStateError(f"state is {type(state).__name__}; accepted: what to_state gives")
        for field, accepted in (("version", STATE_VERSION), ("buckets", BUCKETS)):
            if state.get(field) != accepted:
                raise PredictionStateError(f"state.{field} is {state.get(field)!r}; accepted: {accepted}")
        predictor = cls(max_keys=max_keys, max_programs=max_programs)
        try:
            for name, ended, reached in state["keys"]:
                level = _Level(_counts(ended), _counts(reached))
                if not name:
                    predictor._root = level
                elif len(name) <= 2 and all(isinstance(part, str) and len(part) <= MAX_NAME for part in name):
                    predictor._levels[tuple(name)] = level
                else:
                    raise ValueError(f"key {name!r} is no tool, or tool and command")
            for program, ended, exposed in state["programs"]:
                if not (isinstance(program, str) and 0 <= float(ended) < math.inf and 0 <= float(exposed) < math.inf):
                    raise ValueError(f"program {program!r} has {ended!r} and {exposed!r}")
                predictor._paces[program[:MAX_PROGRAM_NAME]] = float(ended), float(exposed)
        except (KeyError, TypeError, ValueError) as error:
            raise PredictionStateError(f"state: {error!r}; accepted: what to_state gives") from error
        predictor._forget()
        return predictor

    def _hazard(self, names: tuple[_Name, ...]) -> np.ndarray:
        hazard = (self._root.ended + SHRINKAGE * _PRIOR_HAZARD) / (self._root.reached + SHRINKAGE)
        for name in names:
            level = self._levels.get(name)
            if level is not None:
                hazard = (level.ended + SHRINKAGE * hazard) / (level.reached + SHRINKAGE)
        return hazard

    def _paced(self, survival: np.ndarray, program: str | None) -> np.ndarray:
        """The survival of this program's pauses, from that of all programs'.

        With ``A`` the cumulative hazard at pace 1, that of all is ``(1 + A / k) ** -k``. The pace given ``n`` pauses
        and their exposures ``E`` is gamma distributed with ``k + n`` and ``k + E``, so this program's is
        ``(1 + A / (k + E)) ** -(k + n)``.
        """
        pace = None if program is None else self._paces.get(program[:MAX_PROGRAM_NAME])
        if pace is None:
            return survival
        ended, exposed = pace
        cumulative = PACE_PRIOR * (survival ** (-1.0 / PACE_PRIOR) - 1.0)
        return (1.0 + cumulative / (PACE_PRIOR + exposed)) ** -(PACE_PRIOR + ended)

    def _explained(self, key: PauseKey, seconds: float, load: LoadAt) -> tuple[tuple[int, float], ...]:
        """Buckets of the unloaded pause, and how likely each is: one where the wait is exact, else up to eight."""
        waits = load.waits_s()
        if len(waits) == 1:
            return ((bucket_of(_unloaded(seconds, load)), 1.0),)
        likely = [(seconds - wait) / load.slowdown for wait in waits if wait < seconds]
        buckets = [bucket_of(value) for value in likely] or [0]
        survival = self._paced(_survival(self._hazard(_names(key))), key.program)
        densities = [
            float(survival[b] - survival[b + 1]) / float(EDGES_S[b + 1] - EDGES_S[b]) if b < BUCKETS else 0.0
            for b in buckets
        ]
        total = sum(densities)
        if total <= 0:
            return tuple((bucket, 1.0 / len(buckets)) for bucket in buckets)
        return tuple((bucket, density / total) for bucket, density in zip(buckets, densities, strict=True))

    def _learn_pace(self, program: str | None, survival: np.ndarray, first: int, shares) -> None:
        if program is None:
            return
        program = program[:MAX_PROGRAM_NAME]
        ended, exposed = self._paces[program]
        before = _exposure(survival[first])
        for bucket, share in shares:
            until = (
                _mean_exposure(survival[bucket], survival[bucket + 1])
                if bucket < BUCKETS
                else _exposure(survival[BUCKETS])
            )
            exposed += share * max(0.0, until - before)
            ended += share if bucket < BUCKETS else 0.0
        self._paces[program] = ended, exposed

    def _age(self, names: tuple[_Name, ...], program: str | None, *, new: bool) -> None:
        """Make sure of the levels and the pace that a pause belongs to; a new pause takes weight from older ones."""
        for name in names:
            if name not in self._levels:
                self._levels[name] = _Level()
            self._levels.move_to_end(name)
        if program is not None:
            program = program[:MAX_PROGRAM_NAME]
            ended, exposed = self._paces.pop(program, (0.0, 0.0))
            keep = PACE_MEMORY if new else 1.0
            self._paces[program] = ended * keep, exposed * keep
        self._forget()
        if new:
            for level in self._touched(names):
                level.ended *= _DECAY
                level.reached *= _DECAY

    def _touched(self, names: tuple[_Name, ...]) -> list[_Level]:
        return [self._root, *(self._levels[name] for name in names if name in self._levels)]

    def _forget(self) -> None:
        while len(self._levels) > self._max_keys:
            self._levels.popitem(last=False)
        while len(self._paces) > self._max_programs:
            self._paces.popitem(last=False)

    def _dominant(self, names: tuple[_Name, ...], unloaded_s: float) -> str:
        bucket = min(bucket_of(unloaded_s), BUCKETS - 1)
        for name in reversed(names):
            level = self._levels.get(name)
            if level is not None and level.reached[bucket] >= SHRINKAGE:
                return " ".join(name)
        return "*" if self._root.reached[bucket] >= SHRINKAGE else "prior"

    @staticmethod
    def _check_since(since_s: float) -> None:
        if not since_s >= 0:
            raise ValueError(f"since_s: {since_s!r}; accepted: 0 or more")


def _names(key: PauseKey) -> tuple[_Name, ...]:
    tool = key.tool[:MAX_NAME]
    return ((tool,),) if key.command is None else ((tool,), (tool, key.command[:MAX_NAME]))


def _survival(hazard: np.ndarray) -> np.ndarray:
    survival = np.empty(BUCKETS + 1)
    survival[0] = 1.0
    np.cumprod(1.0 - hazard, out=survival[1:])
    return survival


def _unloaded(seconds: float, load: LoadAt) -> float:
    return max(0.0, seconds - load.wait_s) / load.slowdown


def _exposure(survival: float) -> float:
    """Cumulative hazard at pace 1 where this share of all programs' pauses goes on."""
    return PACE_PRIOR * (float(survival) ** (-1.0 / PACE_PRIOR) - 1.0)


def _mean_exposure(high: float, low: float) -> float:
    """Of the pauses that end while the survival falls from ``high`` to ``low``: that of all, averaged, is 1.

    The integral of ``_exposure(s)`` from ``low`` to ``high`` over its length.
    """
    if high - low < 1e-9 * high:
        return _exposure(high)
    power = 1.0 - 1.0 / PACE_PRIOR
    return PACE_PRIOR * ((high**power - low**power) / (power * (high - low)) - 1.0)


def _counts(values: list[float]) -> np.ndarray:
    counts = np.array(values, dtype=float)
    if counts.shape != (BUCKETS,) or not np.isfinite(counts).all() or (counts < 0).any():
        raise ValueError(f"counts of shape {counts.shape}; accepted: {BUCKETS} numbers, 0 or more")
    return counts


def _check_seconds(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}: {value!r}; accepted: seconds, 0 or more")
