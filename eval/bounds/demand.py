"""What each program of a workload asks of an engine at the least, whoever schedules. Derivation: docs/bounds.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from eval.bounds.terms import Terms
from eval.workload.program import HUMAN, Program, Turn

_LEAST_SHARE = 1e-12
"""Of a row whose context is all head: nothing, but it can be divided by."""

ROW_SHARES = (0.0, 0.5, 1.0)
"""Ways to share what a decode step pays once: by what a row takes of the pool (0), by rows (1), or half of each."""


class LeastTurn(NamedTuple):
    """One turn at its best: all that a cache can hold of its prompt is found there."""

    prompt_tokens: int
    kept_tokens: int
    """Of the prompt, what the program itself, or the head that programs share, can have left in a cache."""
    output_tokens: int
    pause_s: float
    """Until the next turn at the earliest; 0 after the last."""
    tool: bool
    """Whether the pause takes a tool slot."""


def least_turns(program: Program, max_pause_s: float) -> Iterator[LeastTurn]:
    """The turns of a program with the most that each can find cached, and the pause that follows."""
    before: Turn | None = None
    last = len(program.turns) - 1
    for number, turn in enumerate(program.turns):
        pause_s = 0.0 if number == last else turn.pause_s(max_pause_s)
        kept = head_tokens(program) if before is None else turn.kept_of(before)
        kept = min(kept, turn.in_tokens - 1)
        yield LeastTurn(turn.in_tokens, kept, turn.out_tokens, pause_s, turn.tool != HUMAN)
        before = turn


def head_tokens(program: Program) -> int:
    """Leading tokens that other programs may share."""
    return program.tool_tokens + program.system_tokens


@dataclass(frozen=True)
class Demand:
    """Arrays with an entry per program, for pauses one per pause. Seconds, unless said otherwise."""

    alone: np.ndarray
    """From arrival to the last token on an engine and tools without anybody else."""
    first_turn: np.ndarray
    """Of that, the first turn: no tool starts before."""
    tools: np.ndarray
    """Seconds in tools, persons not counted."""
    prefill_tokens: np.ndarray
    prefill_compute: np.ndarray
    prefill_kv: np.ndarray
    """Reading KV in prefill steps."""
    prefill_shares: np.ndarray
    """Shares of the pool that the program's own KV takes, summed over its prefill steps."""
    decode_compute: np.ndarray
    decode_kv: np.ndarray
    decode_shares: np.ndarray
    """Shares that it pays of its decode steps, summed: a row per entry of :data:`ROW_SHARES`."""
    decode_weights: np.ndarray
    """What it pays of their weights, likewise."""
    held: np.ndarray
    """Pool seconds (share of the pool times seconds) while its turns run."""
    pause_program: np.ndarray
    """Index of the program, per pause."""
    pause_held: np.ndarray
    """Pool seconds to hold through the pause what the next turn can reuse of the program's own KV."""
    pause_tokens: np.ndarray
    """Tokens to prefill again where that is dropped."""
    pause_compute: np.ndarray


def demand(programs: Sequence[Program], terms: Terms, max_pause_s: float) -> Demand:
    """The least demand of each program, in their order."""
    most_rows = min(terms.max_running, len(programs))
    rows = [_Row(program, terms, max_pause_s, most_rows) for program in programs]
    names = [
        "alone", "first_turn", "tools", "prefill_tokens", "prefill_compute", "prefill_kv", "prefill_shares",
        "decode_compute", "decode_kv", "decode_shares", "decode_weights", "held",
    ]  # fmt: skip
    pauses = [(index, *pause) for index, row in enumerate(rows) for pause in row.pauses]
    columns = np.array(pauses, dtype=float).reshape(-1, 4).T
    return Demand(
        **{name: np.array([getattr(row, name) for row in rows], dtype=float).T for name in names},
        pause_program=columns[0].astype(int),
        pause_held=columns[1],
        pause_tokens=columns[2],
        pause_compute=columns[3],
    )


class _Row:
    """Sums over the turns of one program."""

    def __init__(self, program: Program, terms: Terms, max_pause_s: float, most_rows: int) -> None:
        self._terms = terms
        self._most_rows = most_rows
        self._head = head_tokens(program)
        self.alone = self.first_turn = self.tools = self.held = 0.0
        self.prefill_tokens = self.prefill_compute = self.prefill_kv = self.prefill_shares = 0.0
        self.decode_compute = self.decode_kv = 0.0
        self.decode_shares = np.zeros(len(ROW_SHARES))
        self.decode_weights = np.zeros(len(ROW_SHARES))
        self.pauses: list[tuple[float, float, float]] = []
        pause_s = 0.0
        for number, turn in enumerate(least_turns(program, max_pause_s)):
            if number:
                self._pause(turn, pause_s)
            self.alone += self._prefill(turn) + self._decode(turn)
            if number == 0:
                self.first_turn = self.alone
            pause_s = turn.pause_s
            self.alone += pause_s
            self.tools += pause_s if turn.tool else 0.0

    def _pause(self, turn: LeastTurn, pause_s: float) -> None:
        own = max(0, turn.kept_tokens - self._head)
        if own and pause_s:
            self.pauses.append((self._share(turn.kept_tokens) * pause_s, own, self._compute_s(own, turn.kept_tokens)))

    def _prefill(self, turn: LeastTurn) -> float:
        terms, end = self._terms, turn.prompt_tokens
        new = end - turn.kept_tokens
        chunks = -(-new // terms.chunk_tokens)
        # However it is cut, the j-th chunk from the end ends at most j whole chunks before the end of the prompt.
        ends = end - terms.chunk_tokens * np.arange(chunks)
        compute_s, kv_s = self._compute_s(new, end), terms.kv_s * float(ends.sum())
        # Concave in a step's tokens: per token the cheapest step is a full one.
        weights_s = (
            terms.weights_s(new) if chunks == 1 else new * terms.weights_s(terms.chunk_tokens) / terms.chunk_tokens
        )
        seconds = max(compute_s, weights_s + kv_s) + chunks * terms.overhead_s
        self.prefill_tokens += new
        self.prefill_compute += compute_s
        self.prefill_kv += kv_s
        self.prefill_shares += float(self._share(ends).sum())
        # Over several chunks both the KV and the cost of a token rise with its position: mean times mean is less.
        middle = 0.5 * (turn.kept_tokens + end)
        self.held += self._share(end) * seconds if chunks == 1 else self._share(middle) * compute_s
        return seconds

    def _decode(self, turn: LeastTurn) -> float:
        # The prefill gives the first token.
        contexts = np.arange(turn.prompt_tokens + 1, turn.prompt_tokens + turn.output_tokens)
        terms = self._terms
        compute_s = terms.token_s + terms.position_s * contexts
        kv_s = terms.kv_s * contexts
        seconds = np.maximum(compute_s, terms.weights_s(1) + kv_s) + terms.overhead_s
        shares = self._share(contexts)
        self.decode_compute += float(compute_s.sum())
        self.decode_kv += float(kv_s.sum())
        for place, by_row in enumerate(ROW_SHARES):
            # A row that takes a share w pays as one of 1 / w such rows.
            paid = by_row / self._most_rows + (1 - by_row) * np.maximum(shares, _LEAST_SHARE)
            self.decode_shares[place] += float(paid.sum())
            self.decode_weights[place] += float((paid * terms.weights_s(1 / paid)).sum())
        self.held += float((shares * seconds).sum())
        return float(seconds.sum())

    def _share(self, tokens):
        return np.maximum(0, tokens - self._head) / self._terms.capacity_tokens

    def _compute_s(self, tokens: int, end: int) -> float:
        return self._terms.compute_s(tokens, end)
