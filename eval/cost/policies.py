"""The pure policies alone: every registered turn and admission policy against the number of things to order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

import numpy as np

from eval.cost.curve import Curve
from eval.cost.timing import Contender, Effort, is_long, measure
from mars_sglang.core.cost_model import CostModel
from mars_sglang.core.policy import (
    BaseTurnPolicy,
    TurnPolicy,
    admission_policy,
    admission_policy_names,
    turn_policy,
    turn_policy_names,
)
from mars_sglang.core.views import (
    ContextState,
    ContextView,
    EngineFacts,
    PoolView,
    ProgramHistory,
    ProgramView,
    RunningView,
    ToolKnown,
    ToolsView,
    TurnArrived,
    TurnEnded,
    TurnStarted,
    TurnView,
)
from mars_sglang.emulation.profiles import load_profile

SIZES = (1, 10, 100, 1_000, 10_000, 100_000)

PROFILE = "h200-qwen3-coder-30b"
#: For an admission policy with a parameter: programs at a time, about what such a pool holds.
PARAMETER = 32
_NOW_S = 10_000.0
_BASE = "first come first served"
_STATES = (ContextState.TOOL, ContextState.WAITING, ContextState.PAUSED)


def turn_policy_curves(sizes: Sequence[int], effort: Effort, seed: int) -> list[Curve]:
    """Every question that a turn policy answers about a list, and what it costs to tell it of a turn."""
    curves = {
        "order_turns": Curve("order_turns", "The order of turns (`order_turns`)", "waiting turns", base=_BASE),
        "order_reclaim": Curve(
            "order_reclaim", "The order of reclaiming (`order_reclaim`)", "retained contexts", base=_BASE
        ),
        "order_victims": Curve("order_victims", "The order of victims (`order_victims`)", "running turns", base=_BASE),
        "pins": Curve("pins", "What is pinned, in every pass (`pins`)", "retained contexts"),
        "observe": Curve("observe", "Telling of one turn's four events (`observe`)", "programs known", base=_BASE),
    }
    left_out: dict[str, set[str]] = {question: set() for question in curves}
    for size in sorted(sizes):
        policies = {_BASE: BaseTurnPolicy(), **{name: turn_policy(name) for name in turn_policy_names()}}
        for policy in policies.values():
            _tell_all(policy, size, seed)
        for question, curve in curves.items():
            contenders = {
                name: Contender(_QUESTIONS[question](policy, size, seed))
                for name, policy in policies.items()
                if name not in left_out[question] and (question != "pins" or policy.pins_kv)
            }
            for name, values in measure(contenders, effort).items():
                curve.put(name, size, values)
                if is_long(values):
                    left_out[question].add(name)
    return [curve for curve in curves.values() if curve.values]


def admission_names() -> list[str]:
    """Every registered admission policy, one that has to have a number with :data:`PARAMETER`."""
    names = (form.partition("[")[0].partition(":") for form in admission_policy_names())
    return [f"{name}:{PARAMETER}" if takes else name for name, _, takes in names]


def admission_curve(sizes: Sequence[int], effort: Effort, seed: int) -> Curve:
    """One decision against the programs admitted and waiting."""
    curve = Curve("decide", "One decision of admission (`decide`)", "programs, half of them waiting", base="footprint")
    curve.remarks.append(
        "The pool is full to 95% and a quarter of the admitted programs has turns in flight; the programs that wait "
        "do not fit."
    )
    left = admission_names()
    for size in sorted(sizes):
        contenders = {name: Contender(_decide(admission_policy(name), size, seed)) for name in left}
        for name, values in measure(contenders, effort).items():
            curve.put(name, size, values)
            if is_long(values):
                left.remove(name)
    return curve


def _tell_all(policy: TurnPolicy, size: int, seed: int) -> None:
    """One turn of each of ``size`` programs."""
    cost = CostModel(load_profile(PROFILE))
    policy.attach(EngineFacts(cost.kv_capacity_tokens, 8_192, cost.prefill_s))
    drawn = np.random.default_rng(seed).integers(1_000, 30_000, size)
    for i, tokens in enumerate(drawn.tolist()):
        _tell(policy, f"p{i}", f"t{i}", tokens, _NOW_S - 600.0 + 500.0 * i / size)


def _tell(policy: TurnPolicy, program: str, turn: str, tokens: int, at_s: float) -> None:
    policy.observe(TurnArrived(turn, program, tokens, None), at_s)
    policy.observe(TurnStarted(turn, program, 0.5, 0), at_s + 0.5)
    policy.observe(
        TurnEnded(turn, program, tokens, tokens // 2, 200, at_s, at_s + 0.5, other_tokens=100_000, last=False), at_s + 4
    )
    policy.observe(ToolKnown(program, "pytest"), at_s + 4)


def _order_turns(policy: TurnPolicy, size: int, seed: int) -> Callable[[], object]:
    rng = np.random.default_rng(seed)
    uncached, waited = rng.integers(1, 30_000, size).tolist(), rng.uniform(0, 60, size).tolist()
    turns = [
        TurnView(f"w{i}", f"p{i}", uncached[i], 30_000, _NOW_S - waited[i], 0, i % 2 == 0, _NOW_S - 600.0 + i / size)
        for i in range(size)
    ]
    return lambda: policy.order_turns(turns, _NOW_S)


def _contexts(size: int, seed: int) -> list[ContextView]:
    rng = np.random.default_rng(seed)
    held, idle = rng.integers(1_000, 30_000, size).tolist(), rng.exponential(20.0, size).tolist()
    kinds = rng.choice(3, size, p=(0.7, 0.2, 0.1)).tolist()
    return [
        ContextView(f"p{i}", held[i], _STATES[kinds[i]], idle[i], _NOW_S - 600.0 + i / size, 5) for i in range(size)
    ]


def _order_reclaim(policy: TurnPolicy, size: int, seed: int) -> Callable[[], object]:
    contexts = _contexts(size, seed)
    return lambda: policy.order_reclaim(contexts, _NOW_S)


def _pins(policy: TurnPolicy, size: int, seed: int) -> Callable[[], object]:
    contexts = _contexts(size, seed)
    return lambda: policy.pins(contexts, 16, _NOW_S)


def _order_victims(policy: TurnPolicy, size: int, seed: int) -> Callable[[], object]:
    rng = np.random.default_rng(seed)
    out, arrived = rng.integers(1, 2_000, size).tolist(), rng.uniform(0, 60, size).tolist()
    running = [
        RunningView(f"r{i}", f"p{i}", 20_000 + out[i], out[i], _NOW_S - arrived[i], _NOW_S - 600.0 + i / size, i % 3)
        for i in range(size)
    ]
    return lambda: policy.order_victims(running, _NOW_S)


def _observe(policy: TurnPolicy, size: int, _: int) -> Callable[[], object]:
    number = count()

    def tell() -> None:
        i = next(number)
        _tell(policy, f"p{i % size}", f"again-{i}", 12_000, _NOW_S + 1e-3 * i)

    return tell


_QUESTIONS: dict[str, Callable[[TurnPolicy, int, int], Callable[[], object]]] = {
    "order_turns": _order_turns,
    "order_reclaim": _order_reclaim,
    "order_victims": _order_victims,
    "pins": _pins,
    "observe": _observe,
}


def _decide(policy, size: int, seed: int) -> Callable[[], object]:
    rng = np.random.default_rng(seed)
    held, idle = rng.integers(5_000, 40_000, size).tolist(), rng.uniform(0, 20, size).tolist()
    programs = [
        ProgramView(
            program=f"p{i}",
            arrived_s=_NOW_S - 600.0 + 500.0 * i / size,
            waiting_since_s=_NOW_S - idle[i] if i >= size // 2 else None,
            in_flight=int(i % 4 == 0 and i < size // 2),
            context_tokens=held[i],
            turns=5,
            idle_since_s=None if i % 4 == 0 else _NOW_S - idle[i],
            first_tokens=held[i] // 2,
            history=ProgramHistory(5, 1_000, held[i] // 2, 20.0, 4, 10.0, (("bash", 5),)),
        )
        for i in range(size)
    ]
    admitted, waiting = programs[: size // 2], programs[size // 2 :]
    full = max(1, int(sum(policy.footprint_tokens(p) for p in admitted) / 0.95))
    referenced = sum(p.context_tokens for p in admitted if p.in_flight)
    pool = PoolView(full, 0, referenced, tools=ToolsView(slots=16, active=8, queued=0, wait_s=0.0))
    # A policy may measure what goes on between two decisions; a frozen clock would hide what that costs.
    number = count()
    return lambda: policy.decide(admitted, waiting, pool, _NOW_S + 1e-3 * next(number))
