"""The admission gate at an event, against the programs that it knows and against those that wait.

Programs that are known and have nothing to do should cost nothing.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence

from eval.cost.curve import SMALLEST, Curve
from eval.cost.policies import admission_names
from eval.cost.timing import Contender, Effort, measure_calls
from mars_sglang.core.gate import Gate, PoolFacts
from mars_sglang.core.policy import admission_policy
from mars_sglang.core.program import Answer

#: Programs known where those are counted, and programs waiting where those are.
SIZES, WAITING_SIZES = (100, 1_000, 10_000, 100_000), (0, 100, 1_000, 10_000)
#: Programs known and waiting where the other is counted, and admitted ones.
KNOWN, WAITING, ADMITTED = 10_000, 8, 64

_CONTEXT_TOKENS, _PROMPT_TOKENS = 20_000, 21_000
#: Room for the admitted programs and their growth, and not for one that waits.
_POOL = PoolFacts(round((ADMITTED + 1) * (_CONTEXT_TOKENS + 2_000) / 0.95))
_WAITING_TOKENS = _POOL.capacity_tokens // 4
#: Between two arrivals: 48 programs take turns, so each is inside a tool for some 2.4 s.
_BETWEEN_S = 0.05
_ANSWER = Answer(_PROMPT_TOKENS, 200, _CONTEXT_TOKENS, ("bash",))

#: What happens, and what takes it back.
Event = tuple[Callable[[], None], Callable[[], None]]


def gate_curves(sizes: Sequence[int], waiting_sizes: Sequence[int], effort: Effort, known: int = KNOWN) -> list[Curve]:
    """An event and the decision that follows: the mean over calls, and the slowest of a hundred.

    Args:
        sizes: programs known.
        waiting_sizes: programs waiting, with ``known`` known.
    """
    by_known = {size: (size, WAITING) for size in sizes}
    by_waiting = {size: (known, size) for size in waiting_sizes}
    passes, ends = "a turn arrives and passes, and admission decides", "a turn ends, and admission decides"
    held = "a new program's turn is held, and admission decides"
    inside = f"{ADMITTED} programs are admitted, a quarter of them at work and the others inside a tool"
    curves = [
        _curve("gate_passes", f"The gate: {passes}", "programs known", by_known, _passes, effort),
        _curve("gate_ends", f"The gate: {ends}", "programs known", by_known, _ends, effort),
        _curve("gate_held", f"The gate with a queue: {held}", "programs waiting", by_waiting, _held, effort),
        _curve("gate_queue", f"The gate with a queue: {ends}", "programs waiting", by_waiting, _ends, effort),
    ]
    for curve in curves[:2]:
        curve.remarks.append(f"{inside}; {WAITING} wait and do not fit. The known programs have all ended.")
    for curve in curves[2:]:
        curve.remarks.append(f"{inside}; those that wait do not fit. {known:,} more are known, and have ended.")
    return curves


def _curve(
    name: str,
    title: str,
    things: str,
    gates: Mapping[int, tuple[int, int]],
    event: Callable[[Gate], Event],
    effort: Effort,
) -> Curve:
    """``gates`` has the programs known and those waiting, by size."""
    curve = Curve(name, title, things, base=SMALLEST)
    for policy in admission_names():
        contenders = {size: Contender(*event(_busy(policy, *gates[size]))) for size in gates}
        for size, rounds in measure_calls(contenders, effort).items():
            curve.put(policy, size, [statistics.fmean(calls) for calls in rounds])
            curve.put(f"{policy}, p99", size, [sorted(calls)[int(0.99 * len(calls))] for calls in rounds])
    return curve


def _busy(policy: str, known: int, waiting: int) -> Gate:
    """A gate that knows ``known`` programs that ended, and has some at work and ``waiting`` before it."""
    gate = Gate(admission_policy(policy), _POOL)
    for i in range(known):
        gate.submit(f"ended-{i}", f"turn-{i}", _PROMPT_TOKENS, 0.0, passed=True)
        gate.finish(f"ended-{i}", f"turn-{i}", 0.0, _ANSWER, last=True)
    for i in range(ADMITTED):
        gate.submit(f"admitted-{i}", f"first-{i}", _PROMPT_TOKENS, 1.0, passed=True)
        if i % 4:
            gate.finish(f"admitted-{i}", f"first-{i}", 1.0, _ANSWER)
    for i in range(waiting):
        gate.submit(f"waiting-{i}", f"held-{i}", _WAITING_TOKENS, 1.0)
    gate.decide(1.0)
    return gate


def _passes(gate: Gate) -> Event:
    """The next turn of an admitted program inside a tool comes; it ends."""
    # Another program each time and seconds between its turns, or the others would all go dormant.
    draw = random.Random(0)
    inside = [f"admitted-{i}" for i in range(ADMITTED) if i % 4]
    now_s, program = 1.0, inside[0]

    def passes() -> None:
        nonlocal now_s, program
        now_s += _BETWEEN_S
        program = draw.choice(inside)
        # Some policies have paused it meanwhile.
        gate.submit(program, "next", _PROMPT_TOKENS, now_s, passed=True)
        gate.decide(now_s)

    def ends() -> None:
        gate.finish(program, "next", now_s, _ANSWER)
        gate.decide(now_s)

    return passes, ends


def _ends(gate: Gate) -> Event:
    passes, ends = _passes(gate)
    passes()
    return ends, passes


def _held(gate: Gate) -> Event:
    """A program comes that does not fit; its client goes away."""
    now_s = 1.0

    def comes() -> None:
        nonlocal now_s
        now_s += 1e-6
        gate.submit("newcomer", "first", _WAITING_TOKENS, now_s)
        gate.decide(now_s)

    def leaves() -> None:
        gate.finish("newcomer", "first", now_s)
        gate.decide(now_s)

    return comes, leaves
