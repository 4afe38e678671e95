"""Engines whose steps take a known time, and programs that fill them."""

from dataclasses import replace

from eval.replay.arrivals import Arrivals
from eval.setup import Setup
from eval.simulator import simulate
from eval.simulator.cache import EvictionOrder, PrefixCache
from eval.simulator.request import Request
from eval.simulator.text import Text
from eval.workload.program import Program, Turn
from mars_sglang.core.cost_model import Gpu, ModelShape, Profile

_KV_BYTES = 4
_WEIGHT_BYTES = 20


def profile(capacity=1000, chunk=100, step_s=1.0, running=64, host_link=1e9) -> Profile:
    """Every step takes ``step_s``: arithmetic and memory are too fast to show."""
    model = ModelShape(
        name="m", layers=1, hidden=1, heads=1, kv_heads=1, head_dim=1, vocab=1, context_tokens=10**6,
        total_params=10.0, active_params=10.0,
    )  # fmt: skip
    gpu = Gpu(
        name="g", memory_bytes=float(_WEIGHT_BYTES + _KV_BYTES * capacity), bandwidth_bytes_per_s=1e40,
        peak_flop_per_s=1e40, matmul_efficiency=1.0, attention_efficiency=1.0, bandwidth_efficiency=1.0,
        step_overhead_s=step_s, host_link_bytes_per_s=host_link * _KV_BYTES,
    )  # fmt: skip
    return Profile("p", "steps of one length", model, gpu, 1.0, 0.0, chunk, running)


def priced(capacity=100_000, token_s=1e-4) -> Profile:
    """A step takes a millisecond, and ``token_s`` for each token that it computes; attention takes next to none."""
    made = profile(capacity=capacity, chunk=8192, step_s=0.001)
    model = replace(made.model, total_params=1e9, active_params=1e9)
    memory = 2 * model.total_params + _KV_BYTES * capacity
    gpu = replace(made.gpu, memory_bytes=memory, peak_flop_per_s=2 * model.active_params / token_s)
    return replace(made, model=model, gpu=gpu)


_PROFILE = profile()


def program(id, *turns, tools=0, system=0) -> Program:
    """Turns as ``(in, out)``, ``(in, out, tool seconds)`` or ``(in, out, tool seconds, reuse)``."""
    made = []
    for turn in turns:
        tokens_in, out, tool_s, reuse = (*turn, 0.0, None)[:4] if len(turn) < 4 else turn
        if len(turn) == 3:
            reuse = None
        made.append(Turn(tokens_in, reuse, out, "ls", tool_s))
    return Program(id, "test", tuple(made), tools, system)


def run(programs, setup=None, *, log=None, arrivals=None, tool_slots=None, profile=_PROFILE, **more):
    """One simulated run; all programs come at once, and clients take no time, unless told otherwise."""
    settings = {"seed": 0, "max_pause_s": 1000.0, "client_s": 0.0} | more
    return simulate(
        programs, arrivals or Arrivals(), setup or Setup(), profile, log=log, tool_slots=tool_slots, **settings
    )


def text(source, length, shared=0) -> Text:
    """A text of its own source, after ``shared`` tokens of a common head."""
    head = [("head", 0, shared)] if shared else []
    return Text([*head, (source, shared, length - shared)])


def cache(capacity=1000, host=None, tlru=None, sessions=False) -> PrefixCache:
    return PrefixCache(capacity, EvictionOrder(tlru, sessions), host)


def put(cache: PrefixCache, content: Text, upto=None, hint=None):
    """Insert as an ended turn does, its KV taken from the pool; the node where it ends."""
    node, adopted = cache.insert(content, len(content) if upto is None else upto, hint or cache.root)
    cache.free -= adopted
    return node


def request(cache: PrefixCache, id="a", prompt=50, out=10, arrived_s=0.0, content=None) -> Request:
    content = content or text(id, prompt + out)
    return Request(id, 0, content, prompt, out, arrived_s, arrived_s, cache.root)
