"""Turn policies on an engine whose costs can be worked out by hand, and events about their turns."""

from mars_sglang.core.policy import TurnPolicy, turn_policy
from mars_sglang.core.views import ContextState, ContextView, EngineFacts, RunningView, TurnEnded, TurnView


def attached(name: str, capacity_tokens: int = 100_000) -> TurnPolicy:
    """On an engine that prefills 10,000 tokens a second, whatever the prefix."""
    policy = turn_policy(name)
    policy.attach(EngineFacts(capacity_tokens, 8192, lambda extend, prefix: extend / 10_000))
    return policy


def ended(
    program: str | None,
    context_tokens: int,
    *,
    turn_id: str = "t",
    cached_tokens: int = 0,
    output_tokens: int = 0,
    started_s: float = 0.0,
    other_tokens: int = 0,
    last: bool = False,
) -> TurnEnded:
    """A turn after which the program's context is of ``context_tokens``."""
    prompt_tokens = context_tokens - output_tokens
    return TurnEnded(
        turn_id, program, prompt_tokens, cached_tokens, output_tokens, started_s, started_s, other_tokens, last
    )


def waiting(turn_id: str, program: str | None, arrived_s: float = 0.0, **fields) -> TurnView:
    values = {"uncached_tokens": 1_000, "context_tokens": 1_000, "program_arrived_s": arrived_s} | fields
    return TurnView(turn_id, program, arrived_s=arrived_s, **values)


def running(turn_id: str, program: str | None, **fields) -> RunningView:
    values = {
        "context_tokens": 1_000,
        "output_tokens": 0,
        "arrived_s": 0.0,
        "program_arrived_s": 0.0,
        "retractions": 0,
    }
    return RunningView(turn_id, program, **(values | fields))


def context(program: str, **fields) -> ContextView:
    values = {"tokens": 1_000, "state": ContextState.TOOL, "idle_s": 1.0, "program_arrived_s": 0.0, "turns": 1}
    return ContextView(program, **(values | fields))


def turn_order(policy: TurnPolicy, turns: list[TurnView], now_s: float) -> list[str]:
    return [turns[i].turn_id for i in policy.order_turns(turns, now_s)]


def victim_order(policy: TurnPolicy, turns: list[RunningView], now_s: float = 0.0) -> list[str]:
    return [turns[i].turn_id for i in policy.order_victims(turns, now_s)]


def reclaim_order(policy: TurnPolicy, contexts: list[ContextView], now_s: float) -> list[str]:
    return [contexts[i].program for i in policy.order_reclaim(contexts, now_s)]


def pinned(policy: TurnPolicy, contexts: list[ContextView], now_s: float, turns_running: int = 2) -> list[str]:
    return [contexts[i].program for i in policy.pins(contexts, turns_running, now_s)]
