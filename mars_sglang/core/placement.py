"""Which data-parallel rank a program's turns go to: each rank has a KV cache of its own.

Pure: told of turns that go to the engine, of their first tokens and of their ends. The server process has one.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

#: Programs whose rank is remembered: as many as an engine process remembers.
MAX_PLACED = 20_000

#: Seconds of silence after which a program's rank is forgotten. The longest limits that agents put on a tool are of
#: this order; a context that nobody asks for would otherwise count as load for as long as the server runs.
FORGOTTEN_S = 1800.0

#: Programs per rank remembered as gone to another one; what they left behind is small beside a pool by then.
MAX_LEFT = 256


@dataclass(slots=True)
class _Placed:
    rank: int
    context_tokens: int
    """Of its last ended turn, or of a turn under way where that is longer."""
    heard_s: float


@dataclass(frozen=True, slots=True)
class _Turn:
    program: str | None
    rank: int
    new_tokens: int
    prefill_s: float


class Placement:
    """Keeps a program on the rank that holds its KV, unless that rank is so loaded that computing it again is cheaper.

    A program that is on no rank goes to the one with the least *load*: tokens of the contexts that are there, and new
    tokens of the turns that are being prefilled there. A continuation leaves its rank for the one with the least *wait*
    only if

        ``wait_s(home) > wait_s(best) + prefill_s(context, 0)``

    where ``wait_s(rank)`` is the sum of ``prefill_s(new tokens, prefix)`` of the turns on that rank without a first
    token, and ``context`` is what it would have to compute again. Ties go to the lowest number.

    Both sides of the comparison are prefills, so ``prefill_s`` has to be right up to a factor only.

    Args:
        ranks: how many there are.
        prefill_s: seconds to prefill so many tokens after a prefix of so many.
        max_placed: programs remembered; the one not heard from for longest is forgotten first.
    """

    def __init__(self, ranks: int, prefill_s: Callable[[int, int], float], max_placed: int = MAX_PLACED):
        if ranks < 1:
            raise ValueError(f"ranks is {ranks}; it has to be 1 or more")
        self.moves = 0
        """How many continuations left their rank."""
        self._prefill_s = prefill_s
        self._max_placed = max_placed
        self._programs: OrderedDict[str, _Placed] = OrderedDict()
        # Bounded by what is under way at the server: the end of every turn is told.
        self._turns: dict[str, _Turn] = {}
        self._prefilling: list[dict[str, _Turn]] = [{} for _ in range(ranks)]
        self._context_tokens = [0] * ranks
        self._left: list[OrderedDict[str, None]] = [OrderedDict() for _ in range(ranks)]

    def place(
        self, turn_id: str, program: str | None, prompt_tokens: int, now_s: float, chosen: int | None = None
    ) -> int | None:
        """A turn goes to the engine.

        Args:
            program: None for a request of no program.
            chosen: a rank that its client asks for; it is taken, and the program is there from now on.

        Returns:
            Its rank; None where the host has to choose: no program, or a rank that there is not.
        """
        self._forget_silent(now_s)
        if chosen is not None and not 0 <= chosen < len(self._prefilling):
            return None
        known = self._programs.get(program) if program is not None else None
        rank = self._choose(known, prompt_tokens) if program is not None and chosen is None else chosen
        if rank is None:
            return None
        stays = known is not None and known.rank == rank
        prefix = min(known.context_tokens, prompt_tokens) if stays else 0
        if program is not None:
            self._put(program, rank, max(prompt_tokens, known.context_tokens if stays else 0), now_s)
        new_tokens = prompt_tokens - prefix
        turn = _Turn(program, rank, new_tokens, self._prefill_s(new_tokens, prefix))
        self._turns[turn_id] = self._prefilling[rank][turn_id] = turn
        return rank

    def answering(self, turn_id: str) -> None:
        """The first token of the turn is out. One that is not known, or was said before, changes nothing."""
        turn = self._turns.get(turn_id)
        if turn is not None:
            self._prefilling[turn.rank].pop(turn_id, None)

    def end(self, turn_id: str, context_tokens: int, now_s: float) -> None:
        """The turn is over, however it ended.

        Args:
            context_tokens: prompt and answer; 0 where there was none.
        """
        self.answering(turn_id)
        turn = self._turns.pop(turn_id, None)
        if turn is None or turn.program is None:
            return
        known = self._programs.get(turn.program)
        if known is None and context_tokens:
            # Forgotten during a long turn, and heard from now.
            self._put(turn.program, turn.rank, context_tokens, now_s)
        elif known is not None and known.rank == turn.rank:
            self._put(turn.program, turn.rank, context_tokens or known.context_tokens, now_s)

    def forget(self, program: str) -> None:
        """The program is over, or dormant: its KV is nobody's. Its next turn is placed anew."""
        known = self._programs.pop(program, None)
        if known is not None:
            self._context_tokens[known.rank] -= known.context_tokens

    def left(self, rank: int) -> Iterable[str]:
        """Programs that went from this rank to another one, oldest first: what they left is of no use there."""
        return self._left[rank].keys()

    def report(self) -> dict[str, Any]:
        """For a state page: by rank, and how many continuations left theirs."""
        ranks = range(len(self._prefilling))
        programs = [0 for _ in ranks]
        for known in self._programs.values():
            programs[known.rank] += 1
        return {"programs": programs, "load_tokens": [self.load_tokens(rank) for rank in ranks], "moves": self.moves}

    def load_tokens(self, rank: int) -> int:
        """Tokens of the contexts there, and new ones of turns without a first token."""
        return self._context_tokens[rank] + sum(turn.new_tokens for turn in self._prefilling[rank].values())

    def wait_s(self, rank: int) -> float:
        """Seconds of prefill that go before a turn that comes now."""
        return sum(turn.prefill_s for turn in self._prefilling[rank].values())

    def _choose(self, known: _Placed | None, prompt_tokens: int) -> int:
        ranks = range(len(self._prefilling))
        if known is None:
            return min(ranks, key=lambda rank: (self.load_tokens(rank), rank))
        waits = [self.wait_s(rank) for rank in ranks]
        best = min(ranks, key=lambda rank: (waits[rank], rank))
        again_s = self._prefill_s(min(known.context_tokens, prompt_tokens), 0)
        return best if waits[known.rank] > waits[best] + again_s else known.rank

    def _put(self, program: str, rank: int, context_tokens: int, now_s: float) -> None:
        known = self._programs.get(program)
        if known is None:
            known = self._programs[program] = _Placed(rank, 0, now_s)
        elif known.rank != rank:
            self.moves += 1
            self._context_tokens[known.rank] -= known.context_tokens
            self._leave(program, known.rank)
            known.rank, known.context_tokens = rank, 0
        self._left[rank].pop(program, None)
        self._context_tokens[rank] += context_tokens - known.context_tokens
        known.context_tokens, known.heard_s = context_tokens, now_s
        self._programs.move_to_end(program)
        if len(self._programs) > self._max_placed:
            self.forget(next(iter(self._programs)))

    def _leave(self, program: str, rank: int) -> None:
        self._left[rank][program] = None
        if len(self._left[rank]) > MAX_LEFT:
            self._left[rank].popitem(last=False)

    def _forget_silent(self, now_s: float) -> None:
        while self._programs:
            program, known = next(iter(self._programs.items()))
            if now_s - known.heard_s < FORGOTTEN_S:
                return
            self.forget(program)
