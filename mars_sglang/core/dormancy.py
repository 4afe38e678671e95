"""After how much silence a program is dormant, learned from the pauses of programs like it."""

from collections import deque
from itertools import accumulate

from mars_sglang.core.views import PoolView, ProgramView

#: Pauses of a kind of program that are looked back on, and that it takes to believe them.
_PAUSES_KEPT, _PAUSES_NEEDED = 512, 32

#: Kinds of programs at most: one per power of two of a first prompt.
_KINDS = 32

#: Programs that went silent and were not heard from since, as remembered.
_SILENT_KEPT = 1024

#: A limit is this many times the pause that it was learned from: tools that run into a time limit come back after about
#: the same pause, some a little later than all before.
MARGIN = 1.1

#: Silence in seconds that is certain to be an end; as the control process has it.
DORMANT_MAX_S = 600.0

#: Seconds to prefill a token, assumed where the engine does not say.
PREFILL_TOKEN_S = 5e-5

#: Context in tokens at which attention costs as much as the rest of a prefill: of the order of 50K for a dense model of
#: 8B parameters, 40K for one of 30B with 3B active.
ATTENTION_TOKENS = 45_000

#: Contexts are told apart by so many tokens where it comes to what it takes to compute them again.
_STEP_TOKENS = 4096

#: What was learned is looked at anew once per so many pauses: it moves slowly, and is asked for on the request path.
_RENEWED = 32


def prefill_s(tokens: float, pool: PoolView) -> float:
    """Seconds of the engine to prefill a context from its start."""
    price = PREFILL_TOKEN_S if pool.prefill_token_s is None else pool.prefill_token_s
    return price * tokens * (1 + tokens / ATTENTION_TOKENS)


def kind_of(p: ProgramView) -> int:
    """Programs whose first prompts are alike in size are taken for alike."""
    return min(p.first_tokens.bit_length(), _KINDS - 1)


class Dormancy:
    """Learns how long programs are silent, and from when on it is no use to hold what one has.

    No server learns from an unmodified agent that a program is over, and one inside a long tool may be better computed
    again than held. The limit is the silence ``t`` with the least expected ``min(pause, t) + R x [t < pause < end]``.
    Pauses are those seen of its kind of program, with those that went silent and did not come back as endless ones;
    ``R`` is the time for which holding its context costs as much as computing it again, where the whole pool for a
    second counts as a second. Until pauses were seen the limit is ``R`` itself, which costs at most twice the best.

    Where clients say that a program is over, silence is rarely an end, and the limit grows to the longest pause seen.
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
        """It came back after so many seconds."""
        kind = self._silent.pop(program.program, None)
        if kind is not None:
            self._pauses[kind].ends -= 1
        self._heard += 1
        self._kind(program).add(seconds)

    def observe_over(self, program: ProgramView, said: bool) -> None:
        """It is over: its client ``said`` so, or it seems to be."""
        if not said:
            self.observe_silence(program)

    def observe_silence(self, program: ProgramView) -> bool:
        """It outlasted its limit, and counts as one that does not come back, until it does. True the first time."""
        if program.program in self._silent:
            return False
        self._silent[program.program] = kind_of(program)
        self._kind(program).ends += 1
        self._heard += 1
        if len(self._silent) > _SILENT_KEPT:
            # Long gone: it stays an end.
            del self._silent[next(iter(self._silent))]
        return True

    def limit_s(self, program: ProgramView, pool: PoolView) -> float:
        """Silence in seconds from which on it is dormant, at most :data:`DORMANT_MAX_S`."""
        of = pool.capacity_tokens, pool.prefill_token_s
        if of != self._limits_of or self._heard >= _RENEWED:
            self._limits_of, self._heard = of, 0
            self._limits.clear()
        step = program.context_tokens // _STEP_TOKENS
        key = kind_of(program), step
        limit_s = self._limits.get(key)
        if limit_s is None:
            tokens = (step + 0.5) * _STEP_TOKENS
            worth_s = pool.capacity_tokens / tokens * prefill_s(tokens, pool)
            limit_s = self._limits[key] = min(DORMANT_MAX_S, self._kind(program).limit_s(worth_s))
        return limit_s

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
        return MARGIN * best_s
