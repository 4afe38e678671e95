"""When silence costs a program its place. The same rule for every admission policy."""

from collections import deque
from collections.abc import Sequence
from itertools import accumulate

from mars_sglang.core.policy import BaseAdmissionPolicy
from mars_sglang.core.views import PoolView, ProgramView

#: Pauses of a kind of program that are looked back on, and that it takes to believe them.
_PAUSES_KEPT, _PAUSES_NEEDED = 512, 32

#: Kinds of programs at most: one per power of two of a first prompt.
_KINDS = 32

#: Programs that went silent and were not heard from since, as remembered.
_SILENT_KEPT = 1024

#: Silence in seconds that is certain to be an end; as the control process has it.
DORMANT_MAX_S = 600.0

#: Seconds to prefill a token, assumed where the engine does not say.
PREFILL_TOKEN_S = 5e-5

#: Context in tokens at which attention costs as much as the rest of a prefill: of the order of 50K for a dense model of
#: 8B parameters, 40K for one of 30B with 3B active.
ATTENTION_TOKENS = 45_000

#: Contexts are told apart by so many tokens where it comes to what it takes to compute them again.
_STEP_TOKENS = 4096

#: What was learned is looked at anew once per so many pauses: it moves slowly, and the gate is on the request path.
_RENEWED = 32


def prefill_s(tokens: float, pool: PoolView) -> float:
    """Seconds of the engine to prefill a context from its start."""
    price = PREFILL_TOKEN_S if pool.prefill_token_s is None else pool.prefill_token_s
    return price * tokens * (1 + tokens / ATTENTION_TOKENS)


def kind_of(p: ProgramView) -> int:
    """Programs whose first prompts are alike in size are taken for alike."""
    return min(p.first_tokens.bit_length(), _KINDS - 1)


class DormancyAdmission(BaseAdmissionPolicy):
    """Knows who is dormant.

    No server learns from an unmodified agent that a program is over, and one inside a long tool may be better computed
    again than held. So a program gives its place to one that waits once it has been silent for so long that holding on
    has no better prospect: the limit ``t`` with the least expected ``min(pause, t) + R x [t < pause < end]``. Pauses
    are those seen of its kind of program, with those that went silent and did not come back as endless ones; ``R`` is
    the time for which holding its context costs as much as computing it again, where the whole pool for a second counts
    as a second. Until pauses were seen the limit is ``R`` itself, which costs at most twice the best.

    Where clients say that a program is over, silence is rarely an end, and the limit grows to the longest pause seen.
    The papers' own harnesses know when a program ends; here a comparison of policies is one of what they do with the
    same guess.
    """

    def __init__(self):
        self._pauses: dict[int, _Pauses] = {}
        self._silent: dict[str, int] = {}
        """Kind of each program that outlasted its limit, until it comes back."""
        self._limits: dict[tuple[int, int], float] = {}
        """By kind and context, for as long as the prices and what was learned stay the same."""
        self._limits_of = (0, None)
        self._heard = 0

    def observe_pause(self, program: ProgramView, seconds: float) -> None:
        kind = self._silent.pop(program.program, None)
        if kind is not None:
            self._pauses[kind].ends -= 1
        self._heard += 1
        self._kind(program).add(seconds)

    def observe_over(self, program: ProgramView, said: bool, now_s: float) -> None:
        if not said and program.program not in self._silent:
            self._gone(program)

    def observe_silence(self, program: ProgramView) -> None:
        """Learn from a program that outlasted its limit: it may be over, and may yet come back."""

    def limit_s(self, p: ProgramView, pool: PoolView) -> float:
        """Silence in seconds after which a program gives up its place to one that waits."""
        of = pool.capacity_tokens, pool.prefill_token_s
        if of != self._limits_of or self._heard >= _RENEWED:
            self._limits_of, self._heard = of, 0
            self._limits.clear()
        step = p.context_tokens // _STEP_TOKENS
        key = kind_of(p), step
        limit_s = self._limits.get(key)
        if limit_s is None:
            tokens = (step + 0.5) * _STEP_TOKENS
            worth_s = pool.capacity_tokens / tokens * prefill_s(tokens, pool)
            limit_s = self._limits[key] = min(DORMANT_MAX_S, self._kind(p).limit_s(worth_s))
        return limit_s

    def dormant(self, admitted: Sequence[ProgramView], pool: PoolView, now_s: float) -> list[ProgramView]:
        """Those of ``admitted`` with nothing in flight and silent for :meth:`limit_s`, longest silent first."""
        silent = [p for p in admitted if not p.in_flight and p.turns and p.idle_s(now_s) >= self.limit_s(p, pool)]
        for p in silent:
            if p.program not in self._silent:
                self._gone(p)
                self.observe_silence(p)
        return sorted(silent, key=lambda p: (-p.idle_s(now_s), p.program))

    def _gone(self, p: ProgramView) -> None:
        """It counts as one that does not come back, until it does."""
        self._silent[p.program] = kind_of(p)
        self._kind(p).ends += 1
        self._heard += 1
        if len(self._silent) > _SILENT_KEPT:
            # Long gone: it stays an end.
            del self._silent[next(iter(self._silent))]

    def _kind(self, p: ProgramView) -> "_Pauses":
        return self._pauses.setdefault(kind_of(p), _Pauses())


class _Pauses:
    """Pauses of one kind of program, and programs of it that did not come back."""

    def __init__(self):
        self._recent: deque[float] = deque(maxlen=_PAUSES_KEPT)
        self._seen = 0
        self.ends = 0

    def add(self, seconds: float) -> None:
        self._recent.append(seconds)
        self._seen += 1

    def limit_s(self, worth_s: float) -> float:
        """The limit of least expected cost, where computing again costs as much as holding for ``worth_s``. Beyond the
        longest pause there is nothing to hold on for."""
        if self._seen < _PAUSES_NEEDED:
            return worth_s
        ranked = sorted(self._recent)
        ended = self.ends * len(ranked) / self._seen
        best_s, best = 0.0, float("inf")
        for i, (seconds, before) in enumerate(zip(ranked, accumulate(ranked), strict=True)):
            longer = len(ranked) - 1 - i
            cost = before + (longer + ended) * seconds + worth_s * longer
            if cost <= best:
                best_s, best = seconds, cost
        return best_s
