"""What it costs to evict in the order of a turn policy, against SGLang's LRU for the same tokens."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from eval.cost.contexts import tokens
from eval.cost.curve import Curve
from eval.cost.timing import Contender, Effort, is_long, measure
from mars_sglang.emulation.in_process import InProcessCache

SIZES = (1, 8, 32, 128, 512, 2048)
POLICY = "mars"

#: A context is one tree node per turn. An eviction makes room for a chunk of half a context.
_TURNS, _TURN_TOKENS = 8, 1_024
_CONTEXT_TOKENS = _TURNS * _TURN_TOKENS
_EVICTED_TOKENS = _CONTEXT_TOKENS // 2

_LRU = "SGLang's LRU"


def eviction_curve(sizes: Sequence[int], effort: Effort) -> Curve:
    """Time of one eviction against the retained contexts, at a full pool."""
    curve = Curve("evictions", f"One eviction of {_EVICTED_TOKENS} tokens", "retained contexts", base=_LRU)
    scenes: dict[str, Callable[[int], Contender]] = {
        _LRU: _least_recent,
        f"{POLICY}, all KV retained": _retained,
        f"{POLICY}, KV of nobody used last": _unowned,
    }
    for size in sorted(sizes):
        measured = measure({name: scene(size) for name, scene in scenes.items()}, effort)
        for name, values in measured.items():
            curve.put(name, size, values)
            if is_long(values):
                del scenes[name]
    curve.remarks.append(
        f"Contexts of {_CONTEXT_TOKENS} tokens, grown by {_TURN_TOKENS} in each of {_TURNS} turns. *All KV retained*: "
        "every context belongs to a program inside a tool, and the latest program gives up the tail of its own. "
        "*KV of nobody used last*: what is evicted belongs to no program and was used after all that is retained, so "
        "the walk passes every retained context first. What was evicted is put back between two evictions, which is "
        "not timed."
    )
    return curve


def _least_recent(size: int) -> Contender:
    cache, contexts = _filled(size, None)
    order = deque(range(size))

    def put_back() -> None:
        # SGLang took it from the context that was used least recently, and now that one is the latest.
        order.rotate(-1)
        _grow(cache, f"p{order[-1]}", contexts[order[-1]], order[-1])

    return Contender(_eviction(cache), put_back)


def _retained(size: int) -> Contender:
    cache, contexts = _filled(size, POLICY)
    return Contender(_eviction(cache), lambda: _grow(cache, f"p{size - 1}", contexts[-1], size - 1))


def _unowned(size: int) -> Contender:
    cache, _ = _filled(size, POLICY)
    nobodys = tokens(size, _EVICTED_TOKENS)

    def put_back() -> None:
        for end in range(_TURN_TOKENS, _EVICTED_TOKENS + 1, _TURN_TOKENS):
            cache.end_turn(None, nobodys[:end], 0.0, 0.0)

    put_back()
    return Contender(_eviction(cache), put_back)


def _filled(size: int, policy: str | None):
    # Room for what belongs to no program, and for some tokens that are free while nothing is evicted.
    cache = InProcessCache((size + 1) * _CONTEXT_TOKENS, policy)
    contexts = [tokens(i, _CONTEXT_TOKENS) for i in range(size)]
    for index, context in enumerate(contexts):
        _grow(cache, f"p{index}", context, index)
    return cache, contexts


def _grow(cache: InProcessCache, program: str, context, index: int) -> None:
    """All turns of a program, one after the other; all end at one time, for nobody is to go dormant."""
    for end in range(_TURN_TOKENS, _CONTEXT_TOKENS + 1, _TURN_TOKENS):
        cache.end_turn(program, context[:end], 10_000.0, float(index))


def _eviction(cache: InProcessCache) -> Callable[[], None]:
    def evict() -> None:
        evicted = cache.evict(_EVICTED_TOKENS)
        if evicted != _EVICTED_TOKENS:
            raise RuntimeError(f"{evicted} tokens were evicted; this is measured with {_EVICTED_TOKENS} each time")

    return evict
