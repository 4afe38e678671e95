"""Rollouts for reinforcement learning: agents started at once in ``sglang.Engine``, without HTTP, each with an id.

``python -m eval.agents.rollouts --help``. The part to copy is :func:`rollout`; docs/agents/rl-rollouts.md explains it.
"""

import argparse
import asyncio
import json
import os
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eval.options import number, whole
from mars_sglang import clock
from mars_sglang.core.cost_model import CostModel, ProfileError
from mars_sglang.emulation.launch import server_environment
from mars_sglang.emulation.model_folder import model_folder
from mars_sglang.emulation.profiles import load_profile

#: Token ids that are words in any vocabulary.
WORD_IDS = (1000, 8000)

#: A tool call takes at most so many times the mean.
LONGEST_TOOL = 4.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is rolled out. Times in seconds of the engine's clock."""

    groups: int = 4
    """Different tasks; the rollouts of one begin with the same prompt."""
    group_size: int = 6
    turns: int = 5
    prompt_tokens: int = 1500
    answer_tokens: int = 100
    result_tokens: int = 300
    tool_s: float = 2.0
    """Mean of a tool call."""
    seed: int = 0


@dataclass(slots=True)
class Rollout:
    """How one went."""

    program: str
    seconds: float = 0.0
    turns: int = 0
    context_tokens: int = 0
    """Of its continuations: what the turn before had left in the cache..."""
    kept_tokens: int = 0
    """...and what of it was still there."""
    gate_wait_s: float | None = None
    """How long it waited for admission; None from an engine without MARS."""


async def rollout(engine: Any, plan: Plan, group: int, member: int) -> Rollout:
    """One agent: its turns, the tool calls between them, and the word that it is over."""
    done = Rollout(f"step-{plan.seed}/task-{group}/rollout-{member}")
    tool = random.Random(done.program)
    context = _words(random.Random(f"{plan.seed} {group}"), plan.prompt_tokens)
    began_s, left = clock.now(), 0
    for turn in range(plan.turns):
        answer = await engine.async_generate(
            input_ids=context,
            sampling_params={
                "max_new_tokens": plan.answer_tokens,
                "ignore_eos": True,
                # Without HTTP these stand for the fields of a body.
                "custom_params": {"is_last_step": turn == plan.turns - 1, "return_meta_info": True},
            },
            session_id=done.program,
        )
        meta = answer["meta_info"]
        done.turns += 1
        done.context_tokens += left
        done.kept_tokens += min(left, meta["cached_tokens"])
        if "mars" in meta:
            done.gate_wait_s = (done.gate_wait_s or 0.0) + meta["mars"]["gate_wait_s"]
        context = context + answer["output_ids"]
        # The last token's KV is never computed: no step followed it.
        left = len(context) - 1
        if turn < plan.turns - 1:
            await asyncio.sleep(min(tool.expovariate(1.0), LONGEST_TOOL) * plan.tool_s / clock.speed())
            context = context + _words(tool, plan.result_tokens)
    done.seconds = clock.now() - began_s
    return done


async def roll_out(engine: Any, plan: Plan) -> list[Rollout]:
    """All at once: who may start is the engine's admission's business."""
    members = [(group, member) for group in range(plan.groups) for member in range(plan.group_size)]
    return await asyncio.gather(*(rollout(engine, plan, *each) for each in members))


def _words(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(*WORD_IDS) for _ in range(count)]


def report(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Means over rollouts, in seconds of the engine's clock; and the share of contexts that their next turn found."""
    context = sum(done.context_tokens for done in rollouts)
    waits = [done.gate_wait_s for done in rollouts if done.gate_wait_s is not None]
    return {
        "programs": len(rollouts),
        "turns": sum(done.turns for done in rollouts),
        "all_done_s": round(max(done.seconds for done in rollouts), 2),
        "mean_s": round(sum(done.seconds for done in rollouts) / len(rollouts), 2),
        "kept_share": round(sum(done.kept_tokens for done in rollouts) / context, 4) if context else None,
        "gate_wait_s": round(sum(waits) / len(waits), 2) if waits else None,
    }


def emulated(profile_name: str, speed: float, kv_tokens: int | None) -> dict[str, Any]:
    """Arguments of an ``Engine`` without a GPU, in this process's environment.

    Raises:
        ProfileError: the profile is unknown or wrong.
    """
    profile = load_profile(profile_name)
    os.environ.update(server_environment(os.environ, profile_name, speed))
    return {
        "model_path": str(model_folder(profile)),
        "load_format": "dummy",
        "device": "cpu",
        "max_total_tokens": kv_tokens or CostModel(profile).kv_capacity_tokens,
        "chunked_prefill_size": profile.chunked_prefill_tokens,
        "max_running_requests": profile.max_running_requests,
        "disable_overlap_schedule": True,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one line of JSON; exit status 2 for what cannot be done as asked."""
    own = _parser().parse_args(argv)
    plan = Plan(**{name: getattr(own, name) for name in asdict(Plan())})
    try:
        if own.model_path:
            arguments = {"model_path": own.model_path}
            if own.kv_tokens:
                arguments["max_total_tokens"] = own.kv_tokens
        else:
            arguments = emulated(own.emulate, own.speed, own.kv_tokens)
    except ProfileError as error:
        print(f"python -m eval.agents.rollouts: {error}", file=sys.stderr)
        return 2
    import sglang

    try:
        engine = sglang.Engine(scheduler_policy=own.policy, mars_admission=own.admission, **arguments)
    except ValueError as error:
        print(f"python -m eval.agents.rollouts: {error}", file=sys.stderr)
        return 2
    try:
        rollouts = engine.loop.run_until_complete(roll_out(engine, plan))
    finally:
        engine.shutdown()
    print(json.dumps({"policy": own.policy, **report(rollouts)}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eval.agents.rollouts", description="Roll out agents at once in sglang.Engine, without HTTP."
    )
    parser.add_argument("--policy", default="mars", help="as --scheduler-policy of a server (%(default)s)")
    parser.add_argument("--admission", help="as --mars-admission of a server")
    parser.add_argument("--model-path", help="a model for the GPU of this machine; without it the engine is emulated")
    parser.add_argument("--emulate", default="l40s-llama-3.1-8b", metavar="PROFILE", help="(%(default)s)")
    parser.add_argument(
        "--speed", type=number(above=0), default=8.0, help="of the emulated engine's clock (%(default)s)"
    )
    parser.add_argument("--kv-tokens", type=whole(1), metavar="N", help="size of the KV pool; default: the engine's")
    plan = Plan()
    for name, text in (
        ("groups", "different tasks"),
        ("group_size", "rollouts of each, from one prompt"),
        ("turns", "of a rollout"),
        ("prompt_tokens", "of a task"),
        ("answer_tokens", "of a turn"),
        ("result_tokens", "of a tool call"),
    ):
        parser.add_argument(f"--{name.replace('_', '-')}", type=whole(1), default=getattr(plan, name), metavar="N",
                            help=f"{text} (%(default)s)")  # fmt: skip
    parser.add_argument(
        "--tool-s", type=number(least=0), default=plan.tool_s, metavar="S", help="mean of a tool call (%(default)s)"
    )
    parser.add_argument("--seed", type=whole(0), default=plan.seed, metavar="N", help="(%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
