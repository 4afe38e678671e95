"""A scheduling pass over SGLang's own requests and cache: ``calc_priority``, which is what orders the queue."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from eval.cost.contexts import tokens
from eval.cost.curve import Curve
from eval.cost.timing import Contender, Effort, is_long, measure
from eval.setup import NATIVE_TURNS
from mars_sglang.config import NATIVE_UNDER_MARS
from mars_sglang.emulation.in_process import InProcessCache, native_order, request
from mars_sglang.engine.turn_queue import REMATCHED_PER_PASS, MarsSchedulePolicy
from mars_sglang.engine.turns import TurnBook
from mars_sglang.engine.wire import WireTurn

SIZES = (1, 8, 32, 128, 512, 1024, 2048)
POLICY = "mars"

#: Programs inside a tool whose contexts are kept, and what each has of its own.
KNOWN, _KNOWN_TOKENS = 10_000, 64

#: Prompts of an agent at work, and what the last tool call added to one.
_PROMPT_TOKENS, _ADDED_TOKENS = (8_192, 32_768), (256, 2_048)
_NOW_S = 1_000.0
#: SGLang's fcfs touches the prefixes of the first 128 waiting once in so many passes.
_NATIVE_CYCLE = 32


def pass_curve(sizes: Sequence[int], effort: Effort, seed: int) -> Curve:
    """Time of one pass against the waiting turns, ours and SGLang's orders on the same queue."""
    curve = Curve("passes", "One scheduling pass", "waiting turns", base="fcfs")
    prompts, kept = _prompts(max(sizes), seed)
    capacity = sum(kept) + max(kept) + KNOWN * _KNOWN_TOKENS + 1
    ours, native = InProcessCache(capacity, POLICY), InProcessCache(capacity, None)
    for index, (prompt, count) in enumerate(zip(prompts, kept, strict=True)):
        for cache in (ours, native) if count else ():
            cache.end_turn(f"p{index}", prompt[:count], _NOW_S - 60.0, _NOW_S - 600.0 + index * 0.1)
    for index in range(KNOWN):
        name = f"known{index}"
        ours.end_turn(name, tokens(len(prompts) + index, _KNOWN_TOKENS), _NOW_S - 5.0, _NOW_S - 500.0 + index * 0.01)
        ours.cache.keep(name)
    ours.book.busy_s = _NOW_S
    left_out: set[str] = set()
    for size in sorted(sizes):
        ours.book.now_s = _NOW_S
        scenes: dict[str, Callable[[list[Any]], Contender]] = {
            POLICY: lambda queue: _ours(ours.book, ours, queue),
            f"{POLICY} over SGLang's cache": lambda queue: _ours(ours.book, native, queue),
            f"{POLICY}, all turns new": lambda queue: _all_new(ours.book, ours, queue),
            **{name: lambda queue, name=name: _native(name, native, queue) for name in NATIVE_TURNS},
        }
        # A queue for each: a pass leaves what it looked up on the requests.
        contenders = {
            name: scene([_waiting(ours.book, index, prompt, size) for index, prompt in enumerate(prompts[:size])])
            for name, scene in scenes.items()
            if name not in left_out
        }
        measured = measure(contenders, effort)
        for name, values in measured.items():
            curve.put(name, size, values)
            if is_long(values):
                left_out.add(name)
    curve.remarks.append(
        f"Prompts of {_PROMPT_TOKENS[0]} to {_PROMPT_TOKENS[1]} tokens; every other turn has all of its prompt cached "
        f"but the last {_ADDED_TOKENS[0]} to {_ADDED_TOKENS[1]} tokens, the rest have nothing cached. SGLang's lpm and "
        f"hrrn fall back to fcfs above 128 waiting turns. fcfs sorts nothing; in one pass of {_NATIVE_CYCLE} it "
        f"touches the prefixes of 128 turns. *{POLICY}* looks up the prefixes of {REMATCHED_PER_PASS} turns in every "
        f"pass, and of new turns in the first that sees them; beside the waiting turns it knows {KNOWN:,} programs "
        "inside a tool whose contexts it keeps."
    )
    return curve


def _prompts(count: int, seed: int) -> tuple[list[array], list[int]]:
    """Prompts, and how many leading tokens of each are cached."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(*_PROMPT_TOKENS, count, endpoint=True)
    added = rng.integers(*_ADDED_TOKENS, count, endpoint=True)
    kept = [int(length - new) if i % 2 else 0 for i, (length, new) in enumerate(zip(lengths, added, strict=True))]
    return [tokens(i, int(length)) for i, length in enumerate(lengths)], kept


def _waiting(book: TurnBook, index: int, prompt: array, size: int) -> Any:
    req = request(f"turn-{index}", prompt)
    arrived_s = _NOW_S - 30.0 * (size - index) / size
    req.mars = book.receive(WireTurn(f"p{index}", arrived_s, arrived_s - 300.0))
    req.time_stats.wait_queue_entry_time = arrived_s
    req.arrival_processed_tokens = index * 1_000
    return req


def _ours(book: TurnBook, cache: InProcessCache, waiting: list[Any]) -> Contender:
    policy = MarsSchedulePolicy(book, NATIVE_UNDER_MARS, cache.cache, False, False, False)
    return Contender(lambda: policy.calc_priority(waiting))


def _all_new(book: TurnBook, cache: InProcessCache, waiting: list[Any]) -> Contender:
    """Each turn is looked up in the cache, as in the first pass that sees it."""
    policy = MarsSchedulePolicy(book, NATIVE_UNDER_MARS, cache.cache, False, False, False)

    def forget() -> None:
        for req in waiting:
            req.mars.matched, req.mars.view = False, None

    return Contender(lambda: policy.calc_priority(waiting), forget)


def _native(name: str, cache: InProcessCache, waiting: list[Any]) -> Contender:
    policy = native_order(name, cache.cache)
    processed_tokens = len(waiting) * 1_000
    cycle = _NATIVE_CYCLE if name == "fcfs" else 1
    return Contender(lambda: policy.calc_priority(waiting, None, processed_tokens), cycle=cycle)
