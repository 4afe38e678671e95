"""Learns online how long programs are silent between two turns, and forecasts how long this silence lasts.

* **Discrete hazards.** Time is cut into buckets (:data:`~mars_sglang.core.pauses.EDGES_S`). Per key and bucket two
  numbers are kept: pauses that reached the bucket, and those of them that ended in it. Their ratio is the hazard, the
  product of ``1 - hazard`` the survival function (Kaplan and Meier, JASA 53, 1958). A pause that is still going on,
  or whose program went away, counts as reached up to there; one that never ends counts in all buckets.
* **Falling back.** Command to tool to everything to a prior: ``h = (ended + K h_coarser) / (reached + K)``, the
  posterior mean of a beta process with the coarser hazard for its centre (Hjort, Annals of Statistics 18, 1990). It
  works per bucket: a command with many short pauses and few long ones speaks for itself on the short ones, and its tool
  speaks for it on the long ones.
* **Pace.** Of a program with a tool, compared with others: :mod:`mars_sglang.core.pace`.
* **Load.** Learned and kept are pauses without load; :class:`~mars_sglang.core.pauses.LoadAt` says what load adds.
  Where the wait is not known exactly, a pause is shared out over the likely waits by how well each explains it, a step
  of online expectation maximisation (Cappé and Moulines, JRSS B 71, 2009).

Every update and query costs a fixed number of operations on arrays of one length.
"""

import math
from collections import OrderedDict

import numpy as np

from mars_sglang.core.pace import MAX_NAME, Owner, Paces, owner_of
from mars_sglang.core.pauses import BUCKETS, EDGES_S, NO_LOAD, LoadAt, PauseForecast, PauseKey, bucket_of

SHRINKAGE = 4.0
"""``K``: pauses that must reach a bucket for a key to weigh as much there as its fall-back. It counts in every
bucket, so 16 pulls a rare kind that is unlike the others (a person's pauses) visibly towards them, and 1 trusts
single long pauses. The cost of retention is the same within 0.5%."""

HALF_LIFE = 2000.0
"""Pauses that reach a bucket after which what its key knew there counts half; 1000 to 5000 were alike. Counted per
bucket, as the few pauses that are long would else be forgotten by the many that are short."""

MAX_KEYS = 1024
"""Commands and tools remembered, 2.6 KB each; the ones not seen for longest are forgotten."""

MAX_PACES = 16_384
"""Pairs of program and tool of which the pace is remembered; forgotten likewise."""

STATE_VERSION = 1

# Log-logistic through the published median (0.3 s) and 90th percentile (13.6 s) of 432 thousand tool calls
# (TraceLab); it also meets their published share over a minute, 4.9%.
_PRIOR_SURVIVAL = 1.0 / (1.0 + (EDGES_S / 0.3) ** (math.log(9.0) / math.log(13.6 / 0.3)))
_PRIOR_HAZARD = 1.0 - _PRIOR_SURVIVAL[1:] / _PRIOR_SURVIVAL[:-1]

_LEAST_SURVIVAL = 1e-12
"""Above 0, so that a pause that outlasts everything known has a forecast too."""

_FADE = 1.0 - 0.5 ** (1.0 / HALF_LIFE)
_ENDED, _REACHED = 0, 1

_Name = tuple[str, ...]
"""Of what counts are kept: ``()`` for everything, ``(tool,)`` or ``(tool, command)``."""


class PredictionStateError(ValueError):
    """A saved state that cannot be loaded; the message says what is wrong with it."""


class PausePredictor:
    """Forecasts of pauses. Deterministic; :meth:`predict` changes nothing.

    A pause is told of once it ended (:meth:`observe`), and may be told of while it lasts (:meth:`still_out`), which
    keeps a predictor from believing, while the long pauses are still going on, that there are only short ones.
    ``since_s`` is how long it had lasted when it was last told of.
    """

    def __init__(self, *, max_keys: int = MAX_KEYS, max_paces: int = MAX_PACES):
        if max_keys < 1:
            raise ValueError(f"max_keys: {max_keys!r}; accepted: a whole number of at least 1")
        self._max_keys = max_keys
        self._everything = np.zeros((2, BUCKETS))
        self._counts: OrderedDict[_Name, np.ndarray] = OrderedDict()
        """Per key, shape ``(2, BUCKETS)``: pauses that ended in the bucket, and that reached it."""
        self._paces = Paces(max_paces)

    def __len__(self) -> int:
        """Keys remembered."""
        return len(self._counts)

    @property
    def paces(self) -> int:
        """Pairs of program and tool of which the pace is remembered."""
        return len(self._paces)

    def predict(self, key: PauseKey, elapsed_s: float = 0.0, load: LoadAt = NO_LOAD) -> PauseForecast:
        """The distribution of a pause of this key that has lasted ``elapsed_s``, its executor loaded as said."""
        _check("elapsed_s", elapsed_s, finite=True)
        names = _names(key)
        survival = self._paces.paced(self._survival(names), _owner(key))
        if load != NO_LOAD:
            waits = load.waits_s()
            survival = sum(np.interp((EDGES_S - w) / load.slowdown, EDGES_S, survival) for w in waits) / len(waits)
        survival.flags.writeable = False
        return PauseForecast(elapsed_s, self._speaks(names, _unloaded(elapsed_s, load)), survival)

    def observe(self, key: PauseKey, seconds: float, load: LoadAt = NO_LOAD, since_s: float = 0.0) -> None:
        """Learn from a pause that ended after ``seconds``."""
        _check("seconds", seconds, finite=True)
        _check("since_s", since_s)
        names = _names(key)
        survival = self._survival(names)
        owner = _owner(key)
        shares = self._explained(seconds, load, survival, owner)
        first = bucket_of(_unloaded(since_s, load))
        new = not since_s
        for counts in self._counts_of(names):
            for bucket, share in shares:
                start = min(first, bucket)
                counts[:, start : bucket + 1] *= 1.0 - share * _FADE
                counts[_REACHED, start : bucket + 1] += share
                if bucket < BUCKETS:
                    counts[_ENDED, bucket] += share
        if owner is not None:
            self._paces.learn_end(owner, survival, first, shares, new=new)

    def still_out(self, key: PauseKey, seconds: float, load: LoadAt = NO_LOAD, since_s: float = 0.0) -> None:
        """Learn that a pause has lasted ``seconds`` and not ended; infinite for one that never will.

        After it, the pause may be forgotten, as of a program that went dormant, or told of again.
        """
        _check("seconds", seconds)
        _check("since_s", since_s)
        names = _names(key)
        survival = self._survival(names)
        first, last = (bucket_of(_unloaded(at, load)) for at in (since_s, seconds))
        new = not since_s
        for counts in self._counts_of(names):
            counts[:, first:last] *= 1.0 - _FADE
            counts[_REACHED, first:last] += 1.0
        # A pause without an end says that the program is over, not that it is slow.
        owner = _owner(key)
        if owner is not None and seconds < math.inf:
            self._paces.learn_silence(owner, survival, first, max(first, last), new=new)

    def to_state(self) -> dict:
        """All that was learned, in plain lists, dictionaries, strings and floats."""
        kept = [((), self._everything), *self._counts.items()]
        return {
            "version": STATE_VERSION,
            "buckets": BUCKETS,
            "keys": [[list(name), counts.tolist()] for name, counts in kept],
            "paces": self._paces.to_state(),
        }

    @classmethod
    def from_state(cls, state: dict, *, max_keys: int = MAX_KEYS, max_paces: int = MAX_PACES) -> "PausePredictor":
        """A predictor that goes on from a saved state; of more keys or paces than it may hold, the newest.

        Raises:
            PredictionStateError: of another version, or not what :meth:`to_state` gives.
        """
        if not isinstance(state, dict):
            raise PredictionStateError(f"state is {type(state).__name__}; accepted: what to_state gives")
        for name, accepted in (("version", STATE_VERSION), ("buckets", BUCKETS)):
            if state.get(name) != accepted:
                raise PredictionStateError(f"state.{name} is {state.get(name)!r}; accepted: {accepted}")
        predictor = cls(max_keys=max_keys, max_paces=max_paces)
        try:
            for name, values in state["keys"]:
                predictor._load(tuple(name), np.array(values, dtype=float))
            predictor._paces.load_state(state["paces"])
        except (KeyError, TypeError, ValueError) as error:
            raise PredictionStateError(f"state: {error!r}; accepted: what to_state gives") from error
        return predictor

    def _load(self, name: _Name, counts: np.ndarray) -> None:
        if counts.shape != (2, BUCKETS) or not np.isfinite(counts).all() or (counts < 0).any():
            raise ValueError(f"counts of {name!r} are not {BUCKETS} pairs of numbers, 0 or more")
        if len(name) > 2 or not all(isinstance(part, str) and len(part) <= MAX_NAME for part in name):
            raise ValueError(f"key {name!r} is no tool, or tool and command")
        if name:
            self._counts[name] = counts
            self._forget_stale()
        else:
            self._everything = counts

    def _survival(self, names: tuple[_Name, ...]) -> np.ndarray:
        """Over all programs, without load: shape ``(BUCKETS + 1,)``, at the edges."""
        ended, reached = self._everything
        hazard = (ended + SHRINKAGE * _PRIOR_HAZARD) / (reached + SHRINKAGE)
        for name in names:
            counts = self._counts.get(name)
            if counts is not None:
                hazard = (counts[_ENDED] + SHRINKAGE * hazard) / (counts[_REACHED] + SHRINKAGE)
        survival = np.empty(BUCKETS + 1)
        survival[0] = 1.0
        np.cumprod(1.0 - hazard, out=survival[1:])
        return np.maximum(survival, _LEAST_SURVIVAL, out=survival)

    def _explained(
        self, seconds: float, load: LoadAt, survival: np.ndarray, owner: Owner | None
    ) -> tuple[tuple[int, float], ...]:
        """Buckets of the pause without its load, and how likely each is: one where the wait is exact, else several."""
        waits = load.waits_s()
        if len(waits) == 1:
            return ((bucket_of(_unloaded(seconds, load)), 1.0),)
        buckets = [bucket_of((seconds - wait) / load.slowdown) for wait in waits if wait < seconds] or [0]
        paced = self._paces.paced(survival, owner)
        densities = [
            float((paced[b] - paced[b + 1]) / (EDGES_S[b + 1] - EDGES_S[b])) if b < BUCKETS else 0.0 for b in buckets
        ]
        total = sum(densities)
        if total <= 0.0:
            return tuple((bucket, 1.0 / len(buckets)) for bucket in buckets)
        return tuple((bucket, density / total) for bucket, density in zip(buckets, densities, strict=True))

    def _counts_of(self, names: tuple[_Name, ...]) -> list[np.ndarray]:
        """The counts that a pause goes into, made if need be."""
        found = [self._everything]
        for name in names:
            counts = self._counts.get(name)
            if counts is None:
                counts = self._counts[name] = np.zeros((2, BUCKETS))
                self._forget_stale()
            else:
                self._counts.move_to_end(name)
            found.append(counts)
        return found

    def _forget_stale(self) -> None:
        while len(self._counts) > self._max_keys:
            self._counts.popitem(last=False)

    def _speaks(self, names: tuple[_Name, ...], unloaded_s: float) -> str:
        bucket = min(bucket_of(unloaded_s), BUCKETS - 1)
        for name in reversed(names):
            counts = self._counts.get(name)
            if counts is not None and counts[_REACHED, bucket] >= SHRINKAGE:
                return " ".join(name)
        return "*" if self._everything[_REACHED, bucket] >= SHRINKAGE else "prior"


def _names(key: PauseKey) -> tuple[_Name, ...]:
    tool = key.tool[:MAX_NAME]
    return ((tool,),) if key.command is None else ((tool,), (tool, key.command[:MAX_NAME]))


def _owner(key: PauseKey) -> Owner | None:
    return None if key.program is None else owner_of(key.program, key.tool)


def _unloaded(seconds: float, load: LoadAt) -> float:
    return max(0.0, seconds - load.wait_s) / load.slowdown


def _check(name: str, value: float, *, finite: bool = False) -> None:
    if not value >= 0 or (finite and value == math.inf):
        raise ValueError(f"{name}: {value!r}; accepted: seconds, 0 or more{'' if finite else ', or infinite'}")
