"""The admission gate against the programs that it knows, with few of them active: idle ones should cost nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from eval.cost.curve import SMALLEST, Curve
from eval.cost.policies import admission_names
from eval.cost.timing import Contender, Effort, measure
from mars_sglang.core.gate import Gate
from mars_sglang.core.policy import admission_policy

SIZES = (1, 100, 1_000, 10_000, 100_000)
ADMITTED, WAITING = 32, 8

_CONTEXT_TOKENS, _PROMPT_TOKENS = 20_000, 21_000
#: Room for the admitted programs and their growth, and not for one more.
_CAPACITY_TOKENS = round((ADMITTED + 1) * (_CONTEXT_TOKENS + 2_000) / 0.95)


def gate_curve(sizes: Sequence[int], effort: Effort) -> Curve:
    """A turn's arrival and its end, each with the decision that follows."""
    curve = Curve("gate", "The gate: a turn arrives, or ends, and admission decides", "programs known", base=SMALLEST)
    contenders: dict[tuple[str, int], Contender] = {}
    for name in admission_names():
        for size in sorted(sizes):
            gate = _busy(name, size)
            arrives, ends = _turn(gate, "admitted-1")
            contenders[f"{name}: submit and decide", size] = Contender(arrives, ends)
            arrives, ends = _turn(gate, "admitted-2")
            arrives()
            contenders[f"{name}: finish and decide", size] = Contender(ends, arrives)
    for (series, size), values in measure(contenders, effort).items():
        curve.put(series, size, values)
    curve.remarks.append(
        f"{ADMITTED} programs are admitted, {WAITING} wait and do not fit; they come on top of the known programs, "
        "which have all ended."
    )
    return curve


def _busy(policy: str, size: int) -> Gate:
    """A gate that knows ``size`` programs that ended, and has some at work."""
    gate = Gate(admission_policy(policy), _CAPACITY_TOKENS)
    for i in range(size):
        gate.submit(f"ended-{i}", f"turn-{i}", _PROMPT_TOKENS, 0.0)
        gate.decide(0.0)
        gate.finish(f"ended-{i}", f"turn-{i}", 0.0, _CONTEXT_TOKENS, last=True)
    for i in range(ADMITTED):
        gate.submit(f"admitted-{i}", f"first-{i}", _PROMPT_TOKENS, 1.0)
        gate.decide(1.0)
        if i % 4:
            gate.finish(f"admitted-{i}", f"first-{i}", 1.0, _CONTEXT_TOKENS)
    for i in range(WAITING):
        gate.submit(f"waiting-{i}", f"held-{i}", 2 * _PROMPT_TOKENS, 1.0)
    return gate


def _turn(gate: Gate, program: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """The next turn of an admitted program inside a tool: its arrival, and its end."""
    # Moments apart, so that nobody goes dormant however often this is repeated.
    now_s = 1.0

    def arrives() -> None:
        nonlocal now_s
        now_s += 1e-6
        gate.submit(program, "next", _PROMPT_TOKENS, now_s)
        gate.decide(now_s)

    def ends() -> None:
        gate.finish(program, "next", now_s, _CONTEXT_TOKENS, cached_tokens=_CONTEXT_TOKENS, output_tokens=200)
        gate.decide(now_s)

    return arrives, ends
