"""One run of programs against one simulated engine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.ablations import ADMISSION_ABLATIONS, TURN_ABLATIONS
from eval.replay.arrivals import Arrivals
from eval.replay.replay import RunResult
from eval.setup import EVICTIONS, TLRU_CONFIG, Setup
from eval.simulator.cache import EvictionOrder, PrefixCache
from eval.simulator.clients import Clients
from eval.simulator.door import Door
from eval.simulator.engine import Engine
from eval.simulator.events import Agenda
from eval.simulator.host import HostTier
from eval.simulator.native import native_policy
from eval.simulator.retention import Sessions
from eval.simulator.tools import ToolSlots
from eval.workload.program import Program
from mars_sglang.config import ADMISSION_OFF
from mars_sglang.core import policy as registry
from mars_sglang.core.cost_model import CostModel, Profile
from mars_sglang.core.gate import Gate, PoolFacts
from mars_sglang.core.policy import AdmissionPolicy, TurnPolicy
from mars_sglang.core.prefill_price import PRICED_TOKENS

#: Tokens of the pool, and of the model's longest sequence, that SGLang keeps back from one request.
_KEPT_BACK_TOKENS = 6

#: Assumed of HTTP, identity and the tokenizer, for a prompt of 10,000 tokens. It shows under lpm, which serves a
#: program at once that comes straight back, and where many come at one time, for then it decides who is first.
CLIENT_S = 0.05


@dataclass(frozen=True)
class Simulated:
    """What came of a run. Times in emulated seconds."""

    result: RunResult
    retractions: int
    """Turns taken from the running batch for want of memory."""
    counters: dict[str, float]
    """``prefill_tokens`` computed, ``gpu_busy_s``, ``evicted_tokens`` and ``host_loaded_tokens`` of the GPU's pool,
    ``passes`` that ordered the queue, ``steps`` on the GPU."""


def simulate(
    programs: Sequence[Program],
    arrivals: Arrivals,
    setup: Setup,
    profile: Profile,
    *,
    seed: int,
    tool_slots: int | None,
    max_pause_s: float,
    tool_names: bool = True,
    says_over: bool = False,
    log: list | None = None,
    client_s: float = CLIENT_S,
    turn_policy: TurnPolicy | None = None,
    admission_policy: AdmissionPolicy | None = None,
    tenants: Mapping[str, str] | None = None,
) -> Simulated:
    """Run ``programs`` to their end in virtual time. Equal arguments give equal results, and equal logs.

    Args:
        seed: of the arrivals; nothing else is random.
        tool_slots: tools that run at a time; None for no limit.
        max_pause_s: pauses longer than this are cut to it.
        tool_names: whether the turn policy hears which tool a program is inside of, right after its turn.
        client_s: between the end of a tool and the arrival of a next turn of 10,000 tokens in the server's queue,
            tokenized; in proportion for other prompts. An emulated server
            that runs X times faster than real has X times this in emulated seconds.
        says_over: whether clients say with a program's last turn that it is over (``is_last_step``), as few agents do.
        log: gets a tuple per event, by time: time, kind, program, turn (None where there is none), figures.
        turn_policy: an object to use instead of the one that ``setup`` names.
        admission_policy: likewise; it works also where ``setup`` has admission off.
        tenants: whose each program is, by its id; one without an entry is of the tenant without a key.

    Raises:
        ValueError: two programs of one id, a program that can never fit, or a setup that is not modelled.
    """
    simulation = Simulation(
        programs, arrivals, setup, profile, seed, tool_slots, max_pause_s, tool_names, says_over, log, client_s,
        turn_policy or _turn_policy(setup), admission_policy or _admission_policy(setup), tenants,
    )  # fmt: skip
    while simulation.step():
        pass
    return simulation.outcome()


class Simulation:
    """A run in progress; arguments as :func:`simulate`, with the policies as objects."""

    def __init__(
        self, programs: Sequence[Program], arrivals: Arrivals, setup: Setup, profile: Profile, seed: int,
        tool_slots: int | None, max_pause_s: float, tool_names: bool, says_over: bool, log: list | None,
        client_s: float, turn_policy: TurnPolicy, admission_policy: AdmissionPolicy | None,
        tenants: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        cost = CostModel(profile)
        _check(programs, profile, cost, setup)
        self._log = log
        self._agenda = agenda = Agenda()
        self._tools = ToolSlots(tool_slots, agenda)
        host_tokens = int(cost.kv_capacity_tokens * setup.host_ratio)
        host = HostTier(host_tokens) if host_tokens else None
        self.cache = PrefixCache(cost.kv_capacity_tokens, EvictionOrder(_tlru(setup), setup.session_cache), host)
        self.engine = engine = Engine(
            cost,
            self.cache,
            turn_policy,
            Sessions(self.cache) if setup.session_cache else None,
            # At a step's end, but after what came to pass while it ran.
            ended=lambda request: agenda.at(engine.now, lambda: self._clients.answered(request)),
            aborted=lambda request: agenda.at(engine.now, lambda: self._clients.aborted(request)),
            say=lambda kind, request, *figures: self._say(engine.now, kind, request.program, request.number, *figures),
        )

        def say(kind: str, program: str, *figures) -> None:
            self._say(agenda.now, kind, program, None, *figures)

        capacity = cost.kv_capacity_tokens
        facts = PoolFacts(capacity, host_tokens, engine_keeps=getattr(turn_policy, "keeps_kv", False))
        gate = None if admission_policy is None else Gate(admission_policy, facts)
        if gate is not None:
            # What an engine learns of itself within its first prompts.
            gate.prefill_token_s = cost.prefill_s(PRICED_TOKENS, 0) / PRICED_TOKENS
            gate.load_token_s = cost.host_transfer_s(PRICED_TOKENS) / PRICED_TOKENS
        door = Door(gate, engine, self._tools, agenda, say, tenants or {})
        self._clients = Clients(
            programs, arrivals, seed, max_pause_s, says_over, client_s, self.cache.root, self._tools, agenda, say,
            submit=door.submit, ended=door.ended, tool_known=engine.tool_known if tool_names else None,
        )  # fmt: skip

    def step(self) -> bool:
        """What is due and one pass of the engine, or the way to the next event; False when all is over.

        Raises:
            RuntimeError: turns wait and nothing can ever run: a policy pins what it may not.
        """
        agenda, engine = self._agenda, self.engine
        agenda.run_due(engine.now)
        if engine.has_work and engine.advance(agenda.next_s):
            return True
        next_s = min(agenda.next_s, engine.wakes_s)
        if next_s == math.inf:
            if engine.has_work:
                raise RuntimeError(f"at {engine.now:.3f} s nothing runs, nothing is to come, and turns wait")
            return False
        engine.now = max(engine.now, next_s)
        return True

    def outcome(self) -> Simulated:
        """Records and counters so far; puts the log into the order of time.

        The engine says how a step ended before it looks at what came while the step ran.
        """
        if self._log is not None:
            self._log.sort(key=lambda event: event[0])
        engine = self.engine
        counters = {name: float(engine.counters[name]) for name in _COUNTED}
        counters["evicted_tokens"] = float(self.cache.evicted_tokens)
        took_s = max(self._agenda.now, engine.now)
        result = RunResult(self._clients.records, took_s=took_s, tool_busy_s=self._tools.busy_s)
        return Simulated(result, engine.retractions, counters)

    def _say(self, time_s: float, kind: str, program: str, turn: int | None, *figures) -> None:
        if self._log is not None:
            self._log.append((time_s, kind, program, turn, *figures))


_COUNTED = ("prefill_tokens", "gpu_busy_s", "host_loaded_tokens", "passes", "steps")


def _turn_policy(setup: Setup) -> TurnPolicy:
    if setup.native:
        return native_policy(setup.turn)
    return TURN_ABLATIONS[setup.turn]() if setup.turn in TURN_ABLATIONS else registry.turn_policy(setup.turn)


def _admission_policy(setup: Setup) -> AdmissionPolicy | None:
    if setup.admission == ADMISSION_OFF:
        return None
    ablation = ADMISSION_ABLATIONS.get(setup.admission)
    return registry.admission_policy(setup.admission) if ablation is None else ablation()


def _tlru(setup: Setup) -> tuple[int, int] | None:
    if setup.eviction not in EVICTIONS:
        raise ValueError(f"eviction: {setup.eviction!r}; accepted: {', '.join(EVICTIONS)}")
    if setup.eviction == "lru":
        return None
    return TLRU_CONFIG["threshold"], TLRU_CONFIG["next_prompt_estimate"]


def _check(programs: Sequence[Program], profile: Profile, cost: CostModel, setup: Setup) -> None:
    if setup.host_ratio < 0:
        raise ValueError(f"host_ratio: {setup.host_ratio}; accepted: 0 or more")
    limit = min(profile.model.context_tokens, cost.kv_capacity_tokens) - _KEPT_BACK_TOKENS
    seen: set[str] = set()
    for program in programs:
        if program.id in seen:
            raise ValueError(f"program: {program.id!r} comes twice; accepted: ids that differ")
        seen.add(program.id)
        if program.largest_context > limit:
            raise ValueError(
                f"program: {program.id!r} has a turn of {program.largest_context} tokens; accepted: up to {limit}"
            )
