import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval.replay.arrivals import Arrivals
from eval.setup import Setup
from eval.simulator.door import TICK_S
from eval.simulator.native import native_policy
from eval.simulator.simulate import Simulation
from eval.workload.program import HUMAN, Program, Turn
from mars_sglang.core import policy as registry
from mars_sglang.core.admission.footprint import FootprintAdmission
from mars_sglang.core.cost_model import CostModel
from mars_sglang.core.kept import Kept
from mars_sglang.core.policy import BaseTurnPolicy
from mars_sglang.core.views import EngineFacts, ToolKnown, TurnArrived, TurnEnded, TurnStarted
from tests.eval.simulator.builders import priced, profile, program, run

SETUPS = [
    Setup("fcfs"),
    Setup("lpm"),
    Setup("hrrn", eviction="tlru"),
    Setup("shortest-prefill-first", host_ratio=1),
    Setup("lpm", "mars", session_cache=True),
    Setup("mars", "mars"),
    Setup("mars", "mars", session_cache=True, host_ratio=0.5),
    Setup("mars", eviction="tlru"),
]


def test_two_programs_step_by_step():
    """Chunks of 100 tokens, one second a step: every event is known."""
    log = []
    done = run([program("a", (150, 3, 2.0), (170, 2)), program("b", (50, 2))], log=log)
    assert log == [
        (0.0, "ask", "a", None, 0, 150),
        (0.0, "ask", "b", None, 0, 50),
        (0.0, "start", "a", 0, 0),  # 100 of 150
        (1.0, "start", "b", 0, 0),  # beside the last 50 of a
        (2.0, "first", "a", 0, 0),
        (2.0, "first", "b", 0, 0),
        (3.0, "end", "b", 0, 2),
        (3.0, "done", "b", None, 3.0),
        (4.0, "end", "a", 0, 3),
        (4.0, "tool", "a", None, "ls", 2.0),
        (6.0, "ask", "a", None, 1, 170),
        (6.0, "start", "a", 1, 152),  # prompt and answer, less the last token, whose KV was never computed
        (7.0, "first", "a", 1, 152),
        (8.0, "end", "a", 1, 2),
        (8.0, "done", "a", None, 8.0),
    ]
    assert done.counters == {
        "prefill_tokens": 218, "gpu_busy_s": 6, "host_loaded_tokens": 0, "passes": 3, "steps": 6, "evicted_tokens": 0,
    }  # fmt: skip
    assert done.result.programs[0].turns[1].recomputed_tokens == 0
    assert done.result.took_s == 8.0


def test_a_turn_that_does_not_fit_holds_back_those_behind_it_until_one_leaves():
    # 100 tokens of KV: a and its answer reserve 71, b does not fit beside them, and c behind b would.
    programs = [program("a", (60, 10)), program("b", (60, 2)), program("c", (5, 2))]
    log = []
    run(programs, log=log, profile=profile(capacity=100))
    assert [event[:3] for event in log if event[1] == "start"] == [
        (0.0, "start", "a"),
        (10.0, "start", "b"),
        (10.0, "start", "c"),
    ]


def test_under_our_policy_a_turn_that_fits_passes_one_that_does_not():
    # By prefill it is a, b, c; beside a and its answer, b's does not fit, and c does.
    programs = [program("a", (10, 60)), program("b", (20, 40)), program("c", (25, 2))]
    for setup, first in ((Setup("mars"), ["a", "c"]), (Setup("shortest-prefill-first"), ["a"])):
        log = []
        run(programs, setup, log=log, profile=profile(capacity=100))
        assert [event[2] for event in log if event[1] == "start" and event[0] == 0.0] == first


def test_an_answer_longer_than_what_is_reserved_for_it_makes_the_engine_retract():
    # Of each answer 4096 tokens are reserved, and both need 9000 of a pool of 10000.
    log = []
    programs = [program("a", (100, 9000)), program("b", (100, 9000))]
    done = run(programs, log=log, profile=profile(capacity=10000))
    kinds = [event[1] for event in log]
    assert done.retractions == kinds.count("retract") == 1
    assert all(record.completed for record in done.result.programs)
    (retracted,) = [event for event in log if event[1] == "retract"]
    # Both had decoded as much; the pool holds their prompts once and what they answered.
    assert retracted[4] == pytest.approx(4900, abs=2)
    (again,) = [e for e in log if e[1] == "start" and e[2] == retracted[2] and e[0] > retracted[0]]
    assert again[4] <= 100  # its prompt may be cached still; its answer is not


def test_a_cold_cache_computes_again_what_it_evicted():
    programs = [program("a", (60, 2, 50.0), (80, 2)), program("b", (60, 2, 5.0), (80, 2))]
    lru = run(programs, profile=profile(capacity=100))
    assert lru.counters["evicted_tokens"] > 0
    assert lru.result.programs[0].turns[1].recomputed_tokens > 0
    roomy = run(programs)
    assert roomy.result.programs[0].turns[1].recomputed_tokens == 0


def test_a_host_tier_gives_back_what_the_gpu_evicted_at_the_price_of_the_link():
    programs = [program("a", (60, 2, 50.0), (80, 2)), program("b", (60, 2, 5.0), (80, 2))]
    setup = Setup(host_ratio=5)
    fast = run(programs, setup, profile=profile(capacity=100))
    assert fast.counters["host_loaded_tokens"] > 0
    assert fast.result.programs[0].turns[1].recomputed_tokens == 0
    slow = run(programs, setup, profile=profile(capacity=100, host_link=4.0))
    loaded = slow.counters["host_loaded_tokens"]
    assert slow.counters["gpu_busy_s"] - fast.counters["gpu_busy_s"] == pytest.approx(loaded / 4 - 1)


def test_pauses_are_cut_and_a_person_takes_no_slot():
    turns = (Turn(50, None, 2, HUMAN, 500.0), Turn(80, None, 2, "ls", 3.0), Turn(110, None, 2, "", None))
    people = [Program(id, "test", turns) for id in "ab"]
    done = run(people, tool_slots=1, max_pause_s=60.0)
    first, second = done.result.programs
    assert [record.turns[0].tool_s for record in (first, second)] == [60.0, 60.0]
    assert [record.turns[0].tool_wait_s for record in (first, second)] == [0.0, 0.0]
    assert sorted(record.turns[1].tool_wait_s for record in (first, second)) == [0.0, 3.0]
    assert done.result.tool_busy_s == 6.0


def test_so_many_programs_at_a_time():
    programs = [program(id, (50, 2)) for id in "abc"]
    done = run(programs, arrivals=Arrivals(concurrency=1))
    assert [(r.arrival_s, r.end_s) for r in done.result.programs] == [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0)]


def starts(log, name):
    """Turns of the program: when each was asked for and started, and what of it was cached then."""
    asked = [event[0] for event in log if event[1:3] == ("ask", name)]
    return [(at_s, event[0], event[4]) for at_s, event in zip(
        asked, (event for event in log if event[1:3] == ("start", name)), strict=True
    )]  # fmt: skip


def test_a_cold_turn_waits_for_a_program_that_is_back_soon_and_finds_its_context():
    """Of 100,000 tokens a holds 45,000 in a tool of 2 s, r keeps the engine busy, and b asks for 60,000."""
    programs = [program("a", (45_000, 5, 2.0), (46_000, 5)), program("r", (2_000, 3_000)), program("b", (60_000, 5))]
    kept, taken = [], []
    done = run(programs, Setup("mars"), log=kept, profile=priced(), says_over=True)
    lru = run(programs, Setup("fcfs"), log=taken, profile=priced(), says_over=True)
    (_, _, first), (asked_s, started_s, cached) = starts(kept, "a")
    assert (first, cached) == (0, 45_004) and started_s - asked_s < 0.01
    ((_, b_started_s, _),) = starts(kept, "b")
    (a_done_s,) = [event[0] for event in kept if event[1:3] == ("done", "a")]
    assert b_started_s == a_done_s
    # First come first served starts b inside the tool, and computes a part of a again.
    ((_, b_started_s, _),) = starts(taken, "b")
    (_, _, _), (asked_s, started_s, cached) = starts(taken, "a")
    assert b_started_s < asked_s < started_s and cached < 45_000
    assert done.counters["prefill_tokens"] < lru.counters["prefill_tokens"]


def test_an_engine_with_nothing_else_to_run_waits_no_longer_than_computing_again_would_take():
    """Nothing else runs, and a is inside a tool for longer than its 45,004 tokens are worth."""
    programs = [program("a", (45_000, 5, 9.0), (46_000, 5)), program("b", (60_000, 5))]
    log, cost = [], CostModel(priced())
    run(programs, Setup("mars"), log=log, profile=priced(), says_over=True)
    (a_ended_s,) = [event[0] for event in log if event[1:4] == ("end", "a", 0)]
    ((_, b_started_s, _),) = starts(log, "b")
    assert b_started_s - a_ended_s == pytest.approx(cost.prefill_s(45_004), abs=1e-3)


class KeepsByName(BaseTurnPolicy):
    """Programs in the order of their names, whose contexts are kept for a minute."""

    keeps_kv = True

    def rank(self, turn, now_s):
        return turn.program

    def order_turns(self, turns, now_s):
        return sorted(range(len(turns)), key=lambda i: turns[i].turn_id)

    def may_be_passed(self, turn, now_s):
        return True

    def keep(self, context, now_s):
        return Kept(context.program, now_s - context.idle_s + 60.0, context.tokens, 0, 60.0)


def test_a_program_that_does_not_go_on_from_its_context_is_not_kept_waiting_for_it():
    """The second prompt of a is a new one of 50,000 tokens. Beside its old context of 60,000 no other turn fits with
    its answer, and in one pass only so many are tried."""
    programs = [program("a", (60_000, 5, 2.0), (50_000, 5, 0.0, 0)), program("aa", (100, 5, 90.0), (200, 5))]
    programs += [program(f"b{i}", (37_000, 4_000)) for i in range(9)]
    log = []
    run(programs, log=log, profile=priced(), turn_policy=KeepsByName())
    (_, (asked_s, started_s, _)) = starts(log, "a")
    assert started_s - asked_s < 0.01


class HoldsOn(FootprintAdmission):
    """Where prefilling takes no time, no silence would be worth a place."""

    SILENCE_S = 20.0

    def limit_s(self, p, pool):
        return self.SILENCE_S


def test_a_gate_holds_back_what_would_overfill_the_pool():
    programs = [program(id, (400, 5, 1.0), (420, 5)) for id in "abc"]
    log = []
    run(programs, log=log, profile=profile(capacity=2000), admission_policy=HoldsOn())
    admitted = [(event[0], event[2]) for event in log if event[1] == "admit"]
    assert [name for _, name in admitted] == ["a", "b", "c"]
    assert admitted[0][0] == 0.0 < admitted[1][0]


class Keeps(BaseTurnPolicy):
    keeps_kv = True


@pytest.mark.parametrize("turn_policy", [BaseTurnPolicy, Keeps])
def test_a_gate_knows_whether_the_engine_keeps_contexts_itself(turn_policy):
    shown = []

    class Looks(HoldsOn):
        def decide(self, admitted, waiting, pool, now_s):
            shown.append(pool.engine_keeps)
            return super().decide(admitted, waiting, pool, now_s)

    run([program("a", (50, 2))], turn_policy=turn_policy(), admission_policy=Looks())
    assert set(shown) == {turn_policy.keeps_kv}


def test_a_program_that_says_that_it_is_over_gives_its_place_up_at_once():
    programs = [program(id, (400, 5, 1.0), (420, 5)) for id in "ab"]

    def second_admitted_s(**more) -> float:
        log = []
        run(programs, log=log, profile=profile(capacity=2000), admission_policy=HoldsOn(), **more)
        (done_s,) = [event[0] for event in log if event[1:3] == ("done", "a")]
        (admitted_s,) = [event[0] for event in log if event[1:3] == ("admit", "b")]
        return admitted_s - done_s

    assert second_admitted_s(says_over=True) == 0.0
    # Else it is found out by its silence.
    assert HoldsOn.SILENCE_S - 1.0 <= second_admitted_s() <= HoldsOn.SILENCE_S + TICK_S


class Listener(BaseTurnPolicy):
    """First come first served, and remembers what it was told."""

    name = "listener"

    def __init__(self):
        self.heard, self.engine = [], None

    def attach(self, engine):
        self.engine = engine

    def observe(self, event, now_s):
        self.heard.append((now_s, event))


def test_a_turn_policy_is_told_what_a_real_engine_tells_it():
    listener = Listener()
    run([program("a", (50, 3, 2.0), (80, 2))], turn_policy=listener)
    assert isinstance(listener.engine, EngineFacts)
    assert (listener.engine.capacity_tokens, listener.engine.chunk_tokens) == (1000, 100)
    assert listener.heard == [
        (0.0, TurnArrived("a/0", "a", 50, None)),
        (0.0, TurnStarted("a/0", "a", 0.0, 0)),
        (3.0, TurnEnded("a/0", "a", 50, 0, 3, 0.0, 0.0, 0, False)),
        (3.0, ToolKnown("a", "ls")),
        (5.0, TurnArrived("a/1", "a", 80, 2.0)),
        (5.0, TurnStarted("a/1", "a", 0.0, 0)),
        (7.0, TurnEnded("a/1", "a", 80, 52, 2, 5.0, 5.0, 0, False)),
    ]


def test_tools_are_not_named_where_nobody_knows_them():
    listener = Listener()
    run([program("a", (50, 3, 2.0), (80, 2))], turn_policy=listener, tool_names=False)
    assert not any(isinstance(event, ToolKnown) for _, event in listener.heard)


def test_the_time_of_clients_is_the_clients():
    # 0.01 s a token: 0.5 s for the first prompt, 0.8 s for the second.
    done = run([program("a", (50, 3, 2.0), (80, 2))], client_s=100.0)
    assert [(t.sent_s, t.first_token_s, t.last_token_s) for t in done.result.programs[0].turns] == [
        (0.0, 1.5, 3.5),
        (5.5, 7.3, 8.3),
    ]


def test_of_turns_sent_at_one_time_the_shortest_is_first_in_the_queue():
    log = []
    run([program("long", (90, 2)), program("short", (60, 2))], profile=profile(chunk=90), log=log, client_s=1e-3)
    assert [event[2] for event in log if event[1] == "first"] == ["short", "long"]


def test_a_program_that_can_never_fit_is_refused():
    with pytest.raises(ValueError, match=r"'a' has a turn of 1005 tokens; accepted: up to 994"):
        run([program("a", (1000, 5))])
    with pytest.raises(ValueError, match="'a' comes twice"):
        run([program("a", (10, 5)), program("a", (10, 5))])


TURNS = st.lists(
    st.tuples(st.integers(1, 150), st.integers(1, 40), st.sampled_from([0.0, 0.5, 3.0, 40.0]), st.integers(0, 9)),
    min_size=1,
    max_size=6,
)


@st.composite
def programs(draw):
    made = []
    for number in range(draw(st.integers(1, 8))):
        turns, total = [], 0
        for growth, out, tool_s, cut in draw(TURNS):
            reuse = None if cut else total // 2
            tokens = max(1, total + growth - 60 * (cut == 1))
            turns.append((tokens, out, tool_s, reuse))
            total = tokens + out
        heads = draw(st.sampled_from([(0, 0), (40, 10), (40, 30)]))
        made.append(program(f"p{number}", *turns, tools=heads[0], system=heads[1]))
    return made


STEPS = profile(capacity=1600, step_s=0.1)


def simulation(made, setup, log, profile=STEPS):
    # The longest program has 1500 tokens at most.
    turn = native_policy(setup.turn) if setup.native else registry.turn_policy(setup.turn)
    admission = registry.admission_policy(setup.admission) if setup.admission != "off" else None
    return Simulation(
        made, Arrivals(rate=0.2), setup, profile, 3, 2, 30.0, True, False, log, 0.01,
        turn, admission,
    )  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs(), st.sampled_from(SETUPS))
def test_every_program_completes_and_the_pool_is_never_exceeded(made, setup):
    log = []
    steps = simulation(made, setup, log)
    cache = steps.cache
    while steps.step():
        assert cache.free >= 0 and 0 <= cache.locked <= cache.resident
        assert cache.free + cache.resident + steps.engine.held_tokens == 1600
    assert cache.locked == 0 and cache.free + cache.resident == 1600
    done = steps.outcome()
    for trace, record in zip(made, done.result.programs, strict=True):
        assert record.completed
        assert [(t.prompt_tokens, t.output_tokens) for t in record.turns] == [
            (t.in_tokens, t.out_tokens) for t in trace.turns
        ]
        for turn in record.turns:
            assert 0 <= turn.cached_tokens < turn.prompt_tokens
            assert turn.sent_s < turn.first_token_s <= turn.last_token_s
    if not done.retractions:
        computed = sum(t.prompt_tokens - t.cached_tokens for record in done.result.programs for t in record.turns)
        assert done.counters["prefill_tokens"] == computed
    assert [event[0] for event in log] == sorted(event[0] for event in log)


#: Engines where keeping a context is worth waiting for: a second to half a minute computes the whole pool.
WORTH_KEEPING = [priced(capacity=1600, token_s=token_s) for token_s in (6e-4, 2e-2)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs(), st.sampled_from([0, 0.5, 3]), st.sampled_from(WORTH_KEEPING))
def test_keeping_contexts_wedges_nothing_and_lets_the_engine_idle_for_a_bounded_time(made, host_ratio, engine):
    steps = simulation(made, Setup("mars", host_ratio=host_ratio), [], engine)
    cache, counters = steps.cache, steps.engine.counters
    idle_s, most_s = 0.0, CostModel(engine).prefill_s(1600)
    while True:
        waited, before_s, busy_s = steps.engine.has_work, steps.engine.now, counters["gpu_busy_s"]
        if not steps.step():
            break
        assert cache.free >= 0 and cache.free + cache.resident + steps.engine.held_tokens == 1600
        idle = waited and counters["gpu_busy_s"] == busy_s
        idle_s = idle_s + steps.engine.now - before_s if idle else 0.0
        assert idle_s <= most_s + 1e-3
    assert cache.locked == 0 and cache.free + cache.resident == 1600
    assert all(record.completed for record in steps.outcome().result.programs)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs(), st.sampled_from(SETUPS))
def test_the_same_run_has_the_same_log(made, setup):
    logs = [[], []]
    for log in logs:
        steps = simulation(made, setup, log)
        while steps.step():
            pass
    assert logs[0] == logs[1]


_ONE_RUN = """
import hashlib
from eval.replay.arrivals import Arrivals
from eval.setup import Setup
from eval.simulator import simulate
from tests.eval.simulator.builders import profile, program
log = []
made = [program(f"p{n}", *((60 + 45 * t + 7 * n, 5 + n, 1.0 * t) for t in range(5)), tools=40) for n in range(8)]
simulate(made, Arrivals(rate=1.0), Setup("mars", "mars", session_cache=True, host_ratio=1), profile(capacity=700),
         seed=1, tool_slots=2, max_pause_s=9.0, log=log)
print(len(log), hashlib.sha256(repr(log).encode()).hexdigest())
"""


def test_the_log_does_not_depend_on_the_order_of_sets():
    said = [
        subprocess.run(
            [sys.executable, "-c", _ONE_RUN], capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert said[0] == said[1] and int(said[0].split()[0]) > 100
