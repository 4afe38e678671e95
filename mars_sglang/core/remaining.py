"""Learns online how many turns programs take, and predicts how many a program still has.

* **Turns done.** The chance that a program is over after a turn, by the turns it has done and by its *kind*, which is
  the size of its first prompt and known before anything else: Kaplan and Meier's estimate (JASA 53, 1958) with turns
  for time. Programs still alive count as far as they have come. A kind falls back to all programs, and those to one
  chance for any number of turns: posterior means of a beta process (Hjort, Annals of Statistics 18, 1990).
* **What it did.** Of programs of one kind with as many turns done, those that call some tools have fewer turns left
  than those that call others: who cleans up is nearly through. A ridge regression of the logarithm of the turns
  left, over looks at programs that are over, compares within a kind and number of turns only (the within-group
  estimator of panel data). It moves the first estimate by a factor, which is 1 where nothing was learned.

An end that no client announced is one until the program asks again, which takes back what was learned of it.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

from mars_sglang.core.views import ProgramHistory, ProgramView

SHRINKAGE = 4.0
"""Programs that must pass through a stretch of turns for a kind to weigh as much there as all programs do, and all
programs as much as the one rate."""

PRIOR_PROGRAMS, PRIOR_TURNS = 4.0, 20.0
"""What is believed at the start: as if so many programs had taken so many turns each."""

RIDGE = 200.0
"""Looks after which what they say of a feature counts half: those at 12 programs of 40 turns, which have 16 each. The
looks at one program say much the same, so a weaker ridge would take the first programs for more than they are."""

MAX_FACTOR = 4.0
"""What a program did moves the estimate by this factor at most: shares of tools never seen before are extrapolated."""

SHARE_PRIOR_TURNS = 8.0
"""Turns by which a share of tools is shrunk to none: of a few turns a share says little."""

RECENT_TURNS = 5.0
"""Half-life, in turns, of the shares of what a program did lately."""

MAX_TOOLS = 24
"""Tools told apart, those met first; the rest count as one."""

MAX_LIVE = 2048
"""Programs remembered between their turns, 10 KB each after 40; those not heard from for longest are forgotten."""

MAX_ENDS = 2048.0
"""Ends at which all counts are halved, which lets go of what no longer holds."""

REFRESH_TURNS = 64
"""Turns after which estimates take in the programs that are alive."""

REFRESH_ENDS = 32
"""Estimates may lack this part of the ends, one in so many: none of the first 31."""

_PER_OCTAVE = 4
_STARTS = tuple(sorted({math.floor(2 ** (i / _PER_OCTAVE)) for i in range(10 * _PER_OCTAVE + 1)}))
"""Turns done at which a stretch of alike numbers of turns begins; the last one, at 1024, is open."""
_STRETCHES = len(_STARTS)
_WIDTHS = np.diff([*_STARTS, 2 * _STARTS[-1]]).astype(float)
_STRETCH_OF = (0, *(i for i, width in enumerate(np.diff(_STARTS).tolist()) for _ in range(width)), _STRETCHES - 1)
_KINDS = 21
_MEASURES = 3
_FEATURES = 2 * (MAX_TOOLS + 1) + _MEASURES
_MAX_LOG = math.log(MAX_FACTOR)
_LEAST_SCALE = 1e-3
"""Standard deviation of a feature below which it is taken for constant."""
_FADE = 0.5 ** (1.0 / RECENT_TURNS)
_ENDED, _REACHED = 0, 1


def stretch_of(turns: int) -> int:
    """The stretch of turns, four an octave, that so many turns done, 1 or more, belong to."""
    return _STRETCH_OF[min(turns, _STARTS[-1])]


def kind_of(view: ProgramView) -> int:
    """Kind of a program: the power of two below its first prompt's length, ``[0, 20]``."""
    return min(max(view.first_tokens, 1).bit_length() - 1, _KINDS - 1)


@dataclass(slots=True)
class _Live:
    """A program between its turns."""

    kind: int
    turns: int = 0
    tools: dict[str, int] = field(default_factory=dict)
    lately: np.ndarray = field(default_factory=lambda: np.zeros(MAX_TOOLS + 1))
    """Faded turns that called each tool."""
    lately_turns: float = 0.0
    looks: list[tuple[int, int, np.ndarray]] = field(default_factory=list)
    """Stretch, turns done and features at its first turn in each stretch."""
    features: np.ndarray = field(default_factory=lambda: np.zeros(_FEATURES))
    over_at: int | None = None
    """Halvings of the counts until it was counted as over, which its client did not say; None while it is not."""


class RemainingTurns:
    """Predicts turns to come. Deterministic; :meth:`predict` changes nothing.

    Views of a program come in the order of its turns. One that is missed costs a look; one told of twice changes
    nothing. At most :data:`MAX_LIVE` programs are remembered; of others a prediction knows the kind and the turns done.
    """

    def __init__(self) -> None:
        self._live: OrderedDict[str, _Live] = OrderedDict()
        self._slots: dict[str, int] = {}
        self.version = 0
        """Goes up with each change of what is believed of programs at large."""
        self._turns_told = 0
        self._ends = 0.0
        self._ends_new = 0
        self._halvings = 0
        self._counts = np.zeros((2, _KINDS, _STRETCHES))
        """Ends after a turn, and turns of which it is known whether another followed."""
        self._looks = np.zeros((_KINDS, _STRETCHES))
        self._sums = np.zeros((_KINDS, _STRETCHES, _FEATURES + 1))
        """Over looks: features, and the logarithm of the turns left."""
        self._products = np.zeros((_FEATURES + 1, _FEATURES + 1))
        self._refresh()
        self._solve()

    def __len__(self) -> int:
        """Programs remembered."""
        return len(self._live)

    def observe_turn(self, view: ProgramView) -> None:
        """Learn from a turn that was answered."""
        if view.history is None:
            return
        live = self._live.get(view.program)
        if live is None:
            live = self._live[view.program] = _Live(kind_of(view))
            while len(self._live) > MAX_LIVE:
                self._live.popitem(last=False)
        self._live.move_to_end(view.program)
        if view.turns <= live.turns:
            return
        if live.over_at is not None:
            if live.over_at == self._halvings:
                self._count_end(live, -1.0)
            live.over_at = None
        if live.turns:
            self._count_survived(live.kind, live.turns, view.turns)
        self._look(live, view.turns, view.history)
        self._turns_told += 1
        if self._turns_told % REFRESH_TURNS == 0:
            self._refresh()

    def observe_over(self, view: ProgramView, said: bool) -> None:
        """Learn from a program that is over: its client ``said`` so, or it was silent for too long."""
        if view.history is None:
            return
        self.observe_turn(view)
        live = self._live[view.program]
        if live.over_at is None:
            self._count_end(live, 1.0)
            live.over_at = self._halvings
            self._ends_new += 1
            if self._ends >= MAX_ENDS:
                self._halve()
            if self._ends_new * REFRESH_ENDS > self._ends:
                self._ends_new = 0
                self._refresh()
                self._solve()
        if said:
            del self._live[view.program]

    def predict(self, view: ProgramView) -> float:
        """Expected turns to come of a program that is not over, one that waits or runs included; above 0 and finite.

        For a view that stays as it is, it changes with :attr:`version` only.
        """
        left = self._left(kind_of(view), view.turns)
        live = self._live.get(view.program)
        if live is None:
            return left
        stretch = stretch_of(live.turns)
        above = float(self._weights @ live.features) - self._usual[live.kind][stretch]
        factor = math.exp(min(max(self._trust[live.kind][stretch] * above, -_MAX_LOG), _MAX_LOG))
        return left * factor

    def _left(self, kind: int, turns: int) -> float:
        """By kind and turns done alone."""
        after = min(turns + 1, _STARTS[-1])
        stretch = stretch_of(after)
        goes_on = self._goes_on[kind][stretch]
        if stretch == _STRETCHES - 1:
            return 1.0 / (1.0 - goes_on)
        to_next = goes_on ** (_STARTS[stretch + 1] - after)
        return 1.0 + goes_on * (1.0 - to_next) / (1.0 - goes_on) + to_next * self._beyond[kind][stretch + 1]

    def _look(self, live: _Live, turns: int, history: ProgramHistory) -> None:
        """Take in the turns since the last look."""
        new = turns - live.turns
        fade = _FADE**new
        # Of several turns at once it is not known which came last: they count as alike.
        weight = (1.0 - fade) / (1.0 - _FADE)
        live.lately *= fade
        live.lately_turns = live.lately_turns * fade + weight
        calls = np.zeros(MAX_TOOLS + 1)
        for tool, count in history.tools:
            slot = self._slots.get(tool)
            if slot is None:
                slot = len(self._slots) if len(self._slots) < MAX_TOOLS else MAX_TOOLS
                if slot < MAX_TOOLS:
                    self._slots[tool] = slot
            calls[slot] += count
            live.lately[slot] += weight * (count - live.tools.get(tool, 0)) / new
        live.tools = dict(history.tools)
        features = np.empty(_FEATURES)
        features[: MAX_TOOLS + 1] = calls / (turns + SHARE_PRIOR_TURNS)
        features[MAX_TOOLS + 1 : -_MEASURES] = live.lately / (live.lately_turns + SHARE_PRIOR_TURNS)
        features[-3] = math.log1p(history.output_tokens / turns)
        features[-2] = math.log1p(history.grown_tokens / max(1, turns - 1))
        features[-1] = math.log1p(history.paused_s / max(1, history.pauses))
        live.turns, live.features = turns, features
        stretch = stretch_of(turns)
        if not live.looks or live.looks[-1][0] < stretch:
            live.looks.append((stretch, turns, features.astype(np.float32)))

    def _count_survived(self, kind: int, first: int, end: int) -> None:
        """A turn followed each of the turns ``[first, end)``."""
        reached = self._counts[_REACHED, kind]
        for turns in range(first, min(end, first + _STARTS[-1])):
            reached[stretch_of(turns)] += 1.0

    def _count_end(self, live: _Live, sign: float) -> None:
        """No turn followed its last one; with ``sign`` -1, take that back."""
        self._ends += sign
        self._counts[:, live.kind, stretch_of(live.turns)] += sign
        looks = [look for look in live.looks if look[1] < live.turns]
        if not looks:
            return
        seen = np.empty((len(looks), _FEATURES + 1))
        seen[:, :-1] = [features for _, _, features in looks]
        seen[:, -1] = [math.log(live.turns - done) for _, done, _ in looks]
        stretches = [stretch for stretch, _, _ in looks]  # no stretch twice
        self._looks[live.kind, stretches] += sign
        self._sums[live.kind, stretches] += sign * seen
        self._products += sign * (seen.T @ seen)

    def _halve(self) -> None:
        """Let all that was counted count half."""
        for sums in (self._counts, self._looks, self._sums, self._products):
            sums *= 0.5
        self._ends *= 0.5
        self._halvings += 1

    def _refresh(self) -> None:
        """Chances and expectations from the counts, for every kind and stretch."""
        self.version += 1
        ended, reached = self._counts[_ENDED], self._counts[_REACHED]
        rate = (ended.sum() + PRIOR_PROGRAMS) / (reached.sum() + PRIOR_PROGRAMS * PRIOR_TURNS)
        weight = SHRINKAGE * _WIDTHS
        over = (ended.sum(0) + weight * rate) / (reached.sum(0) + weight)
        over = (ended + weight * over) / (reached + weight)
        goes_on = 1.0 - over
        through = goes_on**_WIDTHS
        within = goes_on * (1.0 - through) / over
        beyond = np.empty_like(over)
        following = beyond[:, -1] = goes_on[:, -1] / over[:, -1]
        for stretch in range(_STRETCHES - 2, -1, -1):
            following = beyond[:, stretch] = within[:, stretch] + through[:, stretch] * following
        # Lists, as one number out of an array costs more than the rest of a prediction.
        self._goes_on: list[list[float]] = goes_on.tolist()
        """Chance that another turn follows, by kind and stretch."""
        self._beyond: list[list[float]] = beyond.tolist()
        """Expected turns that follow the first turn of a stretch."""

    def _solve(self) -> None:
        """Weights of the features from the looks: compared are programs of one kind at one stretch."""
        seen = self._looks > 0
        sums, looks = self._sums[seen], self._looks[seen]
        within = self._products - (sums / looks[:, None]).T @ sums
        total = max(1.0, looks.sum())
        scale = np.maximum(np.sqrt(np.maximum(np.diag(within)[:-1], 0.0) / total), _LEAST_SCALE)
        alike = within[:-1, :-1] / np.outer(scale, scale) + RIDGE * np.eye(_FEATURES)
        self._weights = np.linalg.solve(alike, within[:-1, -1] / scale) / scale
        spread = max(0.0, float(self._weights @ within[:-1, :-1] @ self._weights)) / total
        usual = self._sums[:, :, :-1] @ self._weights / np.maximum(self._looks, 1e-9)
        # A factor exp(z) of normal z has the mean exp(spread / 2).
        self._usual: list[list[float]] = (usual + 0.5 * spread).tolist()
        """What the weighted features of a look come to, by kind and stretch, for a factor of 1."""
        self._trust: list[list[float]] = (self._looks / (self._looks + SHRINKAGE)).tolist()
