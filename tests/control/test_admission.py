"""The gates of the control process: what servers tell of, who is answered what, and what a restart leaves of it."""

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mars_sglang.control import admission as admission_module
from mars_sglang.control.admission import AdmissionConsumer
from mars_sglang.control.pauses import PauseConsumer
from mars_sglang.core.gate import Gate
from mars_sglang.core.program import Program
from mars_sglang.stream.events import (
    AdmissionTicket,
    AdmissionWindow,
    EngineSpeed,
    ExecutorLoad,
    GateSettings,
    KvReclaimed,
    KvRetained,
    ProgramEnded,
    ProgramState,
    SourceState,
    SourceStopped,
    ToolUse,
    TurnEnded,
    TurnPassed,
    TurnState,
    TurnSubmitted,
)
from mars_sglang.stream.resync import state_parts
from tests.stream.recorded_run import Run, Server, anything, serve

SERVER, OTHER = "server:host:9:0000000a", "server:host:9:0000000b"
ENGINE, SIDECAR = "engine:host:8:0000000a", "sidecar:host:7:0000000a"


def running(policy="window:1", capacity=50_000, **of_the_gate) -> tuple[Run, Server]:
    """A control process with one server."""
    run = Run(consumers=[AdmissionConsumer()])
    server = serve(run, SERVER, capacity, policy, **of_the_gate)
    run.said.clear()
    return run, server


def gate_of(run: Run, source: str = SERVER) -> Gate:
    (consumer,) = [one for one in run.order._consumers if isinstance(one, AdmissionConsumer)]
    return consumer._servers[source].gate


def tickets(run: Run) -> list[tuple[str, str]]:
    """Tickets said since the last time, as (program, decision)."""
    said = [(event.program, event.decision) for event in run.said if isinstance(event, AdmissionTicket)]
    run.said.clear()
    return said


def sets(gate: Gate) -> tuple[set[str], set[str], set[str], int]:
    """Programs inside, waiting and paused, and tokens of nobody's turns."""
    return set(gate._admitted), set(gate._waiting), set(gate._paused), sum(gate._anonymous.values())


def said_by(source: str, run: Run, kind: type, at_s: float, **fields) -> list:
    return run.publish(source, kind(time_s=at_s, **fields))


# -- one server -----------------------------------------------------------------------------------


def test_a_first_turn_is_answered_in_the_same_order_to_start_or_to_wait():
    run, server = running()
    assert server.submit("a", "a1", 1000)
    assert not server.submit("b", "b1", 1000)
    assert tickets(run) == [("a", "admitted"), ("b", "waiting")]
    server.now_s += 2.5
    server.end("a1", 10, last=True)
    assert "b1" in server.running
    said = [event for event in run.said if isinstance(event, AdmissionTicket)]
    assert [(event.program, event.decision, event.waited_s) for event in said] == [
        ("a", "released", 0.0),
        ("b", "admitted", 2.5),
    ]
    assert {event.server for event in said} == {SERVER}


def test_a_continuation_of_a_program_with_a_place_passes_without_a_word():
    run, server = running()
    server.submit("a", "a1", 1000)
    run.said.clear()
    for number in range(2, 6):
        server.end(f"a{number - 1}", 10)
        server.now_s += 1.0
        assert server.submit("a", f"a{number}", 1000 + 100 * number)
    assert run.said == []
    assert gate_of(run).programs.get("a").turns == 4


def test_a_second_turn_of_a_waiting_program_is_answered_too_and_both_go_at_once():
    run, server = running()
    server.submit("a", "a1", 1000)
    server.submit("b", "b1", 1000)
    server.submit("b", "b2", 500)
    assert tickets(run) == [("a", "admitted"), ("b", "waiting"), ("b", "waiting")]
    assert gate_of(run).programs.get("b").need_tokens() == 1500
    server.end("a1", last=True)
    assert {"b1", "b2"} <= set(server.running)


def test_a_program_is_paused_only_inside_a_tool_and_its_next_turn_waits():
    run, server = running("footprint", capacity=10_000)
    for name in "ab":
        server.submit(name, f"{name}1", 3000)
        server.now_s += 0.1
    server.submit("a", "a2", 4000)
    server.end("b1", 1500)
    # 7000 + 4500 tokens, and growth ahead: too much, and b is the one inside a tool.
    assert ("b", "paused") in tickets(run)
    assert server.gate.is_paused("b") and server.gate.has_place("a")
    server.now_s += 1.0
    assert not server.submit("b", "b2", 4600)
    assert tickets(run) == [("b", "waiting")]
    server.end("a1", 10)
    server.end("a2", 10, last=True)
    assert ("b", "resumed") in tickets(run) and "b2" in server.running


@pytest.mark.parametrize("capacity", [3_000, 9_000, 40_000])
def test_nothing_under_way_is_ever_paused(capacity):
    run = Run(consumers=[AdmissionConsumer()])
    server = serve(run, SERVER, capacity)
    paused = 0

    def check(event):
        nonlocal paused
        if isinstance(event, AdmissionTicket) and event.decision == "paused":
            paused += 1
            assert not gate_of(run).programs.get(event.program).in_flight

    run.listeners.insert(0, check)
    anything(server, random.Random(1), 600)
    assert paused or capacity == 40_000


def test_a_turn_that_passed_while_its_program_was_paused_gives_it_back_its_place_and_says_so():
    run, server = running("footprint", capacity=10_000)
    server.submit("a", "a1", 3000)
    server.now_s += 0.1
    server.submit("b", "b1", 3000)
    server.prompt = False
    server.end("b1", 1500)
    server.submit("a", "a2", 4000)
    assert ("b", "paused") in tickets(run)
    # The server has not heard of it yet.
    server.now_s += 0.01
    assert server.submit("b", "b2", 4600)
    assert tickets(run) == [("b", "resumed")]
    server.catch_up()
    assert server.gate.has_place("b") and not server.gate.is_paused("b")
    assert "b" in sets(gate_of(run))[0] and run.order.state.program_state("b").admission == "admitted"


def test_a_turn_that_nobody_answered_in_time_takes_a_place_and_says_how_long_it_waited():
    run, server = running()
    server.submit("a", "a1", 1000)
    server.submit("b", "b1", 1000)
    server.now_s += 1.5
    run.said.clear()
    server.let_all_go("slow")
    ticket, *_ = run.said
    assert (ticket.program, ticket.decision, ticket.waited_s) == ("b", "admitted", 1.5)
    assert sets(gate_of(run)) == ({"a", "b"}, set(), set(), 0)
    assert run.order.state.program_state("b").phase == "reasoning"
    # What was let through once is not let through again.
    assert said_by(SERVER, run, TurnPassed, server.now_s, program="b", turn="b1", reason="slow") == []
    # Both keep their places: the policy admits nobody else until one is free.
    server.submit("c", "c1", 1000)
    assert tickets(run)[-1] == ("c", "waiting")


def test_a_program_whose_server_did_not_ask_has_a_place_all_the_same():
    run, server = running()
    server.submit("a", "a1", 1000)
    said = said_by(SERVER, run, TurnSubmitted, server.now_s, program="b", turn="b1", prompt_tokens=700)
    assert [(event.program, event.decision) for event in said] == [("b", "admitted")]
    assert sets(gate_of(run))[0] == {"a", "b"}


def test_a_server_that_asks_for_a_program_that_has_a_place_is_told_at_once():
    run, server = running()
    server.submit("a", "a1", 1000)
    server.end("a1", 10)
    server.gate.forget("a")
    run.said.clear()
    assert server.submit("a", "a2", 1100)
    assert tickets(run) == [("a", "resumed")]


def test_turns_without_a_program_and_those_of_mere_chats_count_as_load_until_they_end():
    run, server = running("footprint", capacity=10_000)
    assert server.submit(None, "n1", 4000)
    assert server.submit("chat", "c1", 3000, gated=False)
    assert sets(gate_of(run)) == (set(), set(), set(), 7000)
    assert server.submit("a", "a1", 1200)
    # 7000 + (1200 + 1200) + (500 + 1200) is over the 9500 that are given out.
    assert not server.submit("b", "b1", 500)
    server.end("n1", 50)
    assert "b1" in server.running
    server.end("c1", 20, tools=(ToolUse("search"),))
    assert sets(gate_of(run)) == ({"a", "b"}, set(), set(), 0)
    assert gate_of(run).programs.get("chat") is None


def test_a_client_that_goes_away_while_its_turn_waits_leaves_the_queue():
    run, server = running()
    server.submit("a", "a1", 1000)
    server.submit("b", "b1", 1000)
    server.submit("c", "c1", 1000)
    server.end("b1")
    assert sets(gate_of(run)) == ({"a"}, {"c"}, set(), 0)
    server.end("a1", last=True)
    assert "c1" in server.running


def test_a_program_whose_only_turn_failed_gives_its_place_back_at_its_server_too():
    run, server = running()
    server.submit("a", "a1", 1000)
    server.submit("b", "b1", 1000)
    run.said.clear()
    server.end("a1")
    assert tickets(run) == [("a", "released"), ("b", "admitted")]
    assert not server.gate.has_place("a")


@pytest.mark.parametrize(
    ("by", "reason"), [(SERVER, "final"), (SERVER, "closed"), ("control:host:1:00000000", "dormant")]
)
def test_a_program_that_is_over_or_dormant_frees_its_place(by, reason):
    run, server = running()
    server.submit("a", "a1", 1000)
    server.end("a1", 10)
    server.submit("b", "b1", 1000)
    run.said.clear()
    said_by(by, run, ProgramEnded, server.now_s, program="a", reason=reason)
    assert tickets(run) == [("a", "released"), ("b", "admitted")]
    assert not server.gate.has_place("a") and "b1" in server.running


def test_a_program_with_a_turn_under_way_is_not_over():
    run, server = running()
    server.submit("a", "a1", 1000)
    run.said.clear()
    assert said_by(SERVER, run, ProgramEnded, server.now_s, program="a", reason="dormant") == []
    assert sets(gate_of(run))[0] == {"a"}


def test_a_silent_program_that_prediction_gives_up_frees_its_place_for_good():
    run = Run(consumers=[PauseConsumer(), AdmissionConsumer()])
    server = serve(run, SERVER, 50_000, "footprint")
    server.submit("a", "a1", 1000)
    server.end("a1", 10)
    for _ in range(20_000):
        server.now_s += 5.0
        run.tick(server.now_s)
        if not server.gate.has_place("a"):
            break
    ended, released = [e for e in run.said if isinstance(e, ProgramEnded | AdmissionTicket)][-2:]
    assert (ended.reason, released.decision) == ("dormant", "released")
    assert sets(gate_of(run)) == (set(), set(), set(), 0)


# -- servers, engines, hosts of tools ---------------------------------------------------------------


def test_a_server_that_stops_or_has_no_gate_any_more_is_not_answered():
    run, server = running()
    server.submit("a", "a1", 1000)
    said_by(SERVER, run, SourceStopped, server.now_s)
    run.said.clear()
    assert not server.submit("b", "b1", 1000)
    assert run.said == [] and run.tick(server.now_s) == []
    run, server = running()
    server.settings = None
    server.tell()
    assert run.said == [] and server.submit("b", "b1", 1000) and run.said == []


def test_other_settings_make_a_new_gate_of_the_same_programs():
    run, server = running()
    server.submit("a", "a1", 1000)
    server.submit("b", "b1", 1000)
    before = gate_of(run)
    server.tell()
    assert gate_of(run) is before
    run.said.clear()
    server.settings = msgspec.structs.replace(server.settings, policy="window:2")
    server.tell()
    assert gate_of(run) is not before
    assert tickets(run) == [("b", "admitted")]
    assert sets(gate_of(run)) == ({"a", "b"}, set(), set(), 0)


@pytest.mark.parametrize(
    "asked",
    [
        {"policy": "of a newer version", "capacity_tokens": 1000},
        {"policy": "window:0", "capacity_tokens": 1000},
        {"policy": "footprint", "capacity_tokens": 0},
        {"policy": "footprint", "capacity_tokens": 1000, "host_tokens": -1},
        {"policy": "footprint", "capacity_tokens": 1000, "weights": {"a": float("nan")}},
    ],
)
def test_a_gate_that_cannot_be_made_is_a_warning_and_the_others_go_on(caplog, asked):
    run, server = running()
    other = Server(OTHER, lambda event: run.publish(OTHER, event), GateSettings(**asked))
    other.tell()
    assert OTHER in caplog.text and "lets everything pass" in caplog.text
    assert not other.submit("a", "a1", 1000)
    assert run.said == []
    assert server.submit("a", "a1", 1000)
    assert tickets(run) == [("a", "admitted")]
    # Settings that can be met make a gate, and what waits is answered.
    other.settings = server.settings
    run.listeners.append(other.hear)
    other.tell()
    assert "a1" in other.running


def test_two_servers_with_a_program_of_the_same_id_are_apart():
    run, server = running()
    other = serve(run, OTHER, 50_000, "window:1")
    other.submit("x", "x1", 10)
    assert server.submit("p", "t1", 1000)
    assert not other.submit("p", "t2", 1000)
    assert sets(gate_of(run)) == ({"p"}, set(), set(), 0)
    assert sets(gate_of(run, OTHER)) == ({"x"}, {"p"}, set(), 0)
    said_by(SERVER, run, SourceStopped, server.now_s)
    other.end("x1", last=True)
    assert "t2" in other.running and not server.gate.is_paused("p")


def test_where_the_engine_keeps_contexts_itself_its_servers_gate_knows_it():
    # 3000 + 2 x 600 each: two are over .95 x 8000, and under .95 x 12,000.
    run, server = running("mars", 8000)
    other = serve(run, OTHER, 8000, "mars", engine_keeps=True)
    assert server.submit("a", "a1", 3000) and not server.submit("b", "b1", 3000)
    assert other.submit("c", "c1", 3000) and other.submit("d", "d1", 3000)


def test_the_server_heard_of_least_lately_loses_its_gate(monkeypatch):
    monkeypatch.setattr(admission_module, "MAX_SERVERS", 2)
    run = Run(consumers=[AdmissionConsumer()])
    servers = [serve(run, f"server:host:{number}:0000000a", 50_000, "window:1") for number in range(2)]
    servers[0].submit("a", "a1", 10)
    third = serve(run, "server:host:2:0000000a", 50_000, "window:1")
    assert third.submit("c", "c1", 10)
    assert not servers[1].submit("b", "b1", 10)
    servers[0].end("a1", 10, last=True)
    assert servers[0].submit("d", "d1", 10)


def test_what_an_engine_says_of_its_speed_is_its_own_servers_price():
    run = Run(consumers=[AdmissionConsumer()])
    serve(run, SERVER, 50_000, instance="one")
    serve(run, OTHER, 50_000, instance="two")
    said_by(ENGINE, run, EngineSpeed, 1.0, instance="two", prefill_token_s=2e-5, load_token_s=1e-6)
    said_by(ENGINE, run, EngineSpeed, 1.0, instance="three", prefill_token_s=3e-5)
    assert gate_of(run).pool_view().prefill_token_s is None
    view = gate_of(run, OTHER).pool_view()
    assert (view.prefill_token_s, view.load_token_s) == (2e-5, 1e-6)
    # Said before its server is known, or made a new gate: it holds.
    late = "server:host:9:0000000c"
    serve(run, late, 50_000, instance="three")
    assert gate_of(run, late).pool_view().prefill_token_s == 3e-5


def test_what_an_engine_says_of_a_context_is_known_while_its_program_is_inside_a_tool():
    run, server = running()
    server.submit("a", "a1", 1000)
    said_by(ENGINE, run, KvRetained, server.now_s, program="a", pages=63, page_tokens=16)
    server.end("a1", 10)
    said_by(ENGINE, run, KvReclaimed, server.now_s, program="a", pages=40, pages_left=23, page_tokens=16)
    assert gate_of(run).programs.get("a").view().resident_tokens == 23 * 16


def test_a_host_of_tools_of_which_nothing_new_is_heard_is_counted_and_no_more():
    run, _ = running()
    load = {"slots": 4, "active": 4, "queued": 2}
    said_by(SIDECAR, run, ExecutorLoad, 100.0, executor="box", **load)
    said_by(SIDECAR, run, ExecutorLoad, 103.0, executor="other", **load)
    run.tick(103.1)
    tools = gate_of(run).pool_view().tools
    assert (tools.hosts, tools.stale, tools.slots, tools.queued) == (2, 1, 4, 2)
    run.tick(110.0)
    tools = gate_of(run).pool_view().tools
    assert (tools.hosts, tools.stale, tools.queued) == (2, 2, 0)


@pytest.mark.parametrize("tokens", [2**63, 2**64 - 200, -(2**63)])
def test_numbers_from_outside_never_switch_admission_off(tokens):
    run, server = running("footprint")
    for number in range(3):
        server.submit(f"p{number}", f"t{number}", tokens)
        server.submit(None, f"n{number}", tokens)
    run.tick(server.now_s)
    for number in range(3):
        server.end(f"t{number}")
    run.said.clear()
    server.submit("q", "q1", 10)
    assert tickets(run)


# -- what is said, and what it costs -----------------------------------------------------------------


def test_a_window_is_said_when_something_changed_and_at_a_tick():
    run, server = running()
    server.submit("a", "a1", 1000)
    window = run.said[-1]
    assert isinstance(window, AdmissionWindow)
    assert (window.server, window.policy, window.admitted, window.waiting) == (SERVER, "window:1", 1, 0)
    assert (window.footprint_tokens, window.capacity_tokens) == (1000, 50_000)
    run.said.clear()
    server.end("a1", 500)
    assert run.said == []
    (window,) = run.tick(server.now_s)
    assert window.footprint_tokens == 1500
    assert run.tick(server.now_s) == []


def test_messages_of_admission_are_few():
    run = Run(consumers=[AdmissionConsumer()])
    server = serve(run, SERVER, 20_000)
    chance, turns = random.Random(3), 0
    contexts = {f"p{number}": 500 for number in range(40)}
    waiting = list(contexts)
    for _ in range(4000):
        server.now_s += 0.05
        if waiting and chance.random() < 0.5:
            program = waiting.pop(0)
            turns += 1
            server.submit(program, f"t{turns}", contexts[program])
        elif server.running:
            turn = chance.choice((*server.running,))
            program, tokens = server.running[turn]
            contexts[program] = min(4000, tokens + 100)
            server.end(turn, 50)
            waiting.append(program)
        if turns % 10 == 0:
            run.tick(server.now_s)
    assert turns > 1000
    assert len(run.said) < 2 * turns


def test_idle_programs_cost_a_decision_nothing(monkeypatch):
    run, server = running("footprint", capacity=10_000_000)
    made = 0
    look = Program._look

    def counted(self):
        nonlocal made
        made += 1
        return look(self)

    monkeypatch.setattr(Program, "_look", counted)

    def views_of_a_turn(name):
        nonlocal made
        made = 0
        server.submit("busy", name, 500)
        server.now_s += 1.0
        server.end(name, 10)
        run.tick(server.now_s)
        return made

    server.submit("busy", "first", 500)
    server.end("first", 10)
    alone = views_of_a_turn("second")
    for number in range(300):
        server.submit(f"p{number}", f"t{number}", 100)
        server.end(f"t{number}", 10)
    assert gate_of(run).snapshot().admitted == 301
    assert views_of_a_turn("third") == alone < 10


# -- restarts ---------------------------------------------------------------------------------------


def rebuilt(server: Server, at_s: float | None = None) -> Run:
    """Another control process, to which the server told its state and says everything from now on."""
    run = Run(consumers=[AdmissionConsumer()])
    server.publish = lambda event: run.publish(server.source, event, at_s)
    run.listeners.append(server.hear)
    server.tell()
    return run


POLICIES = st.sampled_from(["footprint", "window:3", "thunder", "aimd", "concur", "mars"])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), capacity=st.sampled_from([3_000, 12_000, 60_000]), policy=POLICIES)
def test_a_gate_made_anew_from_what_its_server_tells_holds_the_same(seed, capacity, policy):
    run = Run(consumers=[AdmissionConsumer()])
    server = serve(run, SERVER, capacity, policy)
    anything(server, random.Random(seed), 150, chats=0.0)
    # What the policy decides at the moment of the restart it decides again: here it has nothing left to decide.
    run.tick(server.now_s)
    before = sets(gate_of(run))
    new = rebuilt(server)
    gate = gate_of(new)
    first = [e for e in new.said if isinstance(e, AdmissionTicket) and e.decision in ("admitted", "resumed")]
    paused = [e for e in new.said if isinstance(e, AdmissionTicket) and e.decision == "paused"]
    inside, waiting, gave_up, anonymous = sets(gate)
    # A policy that begins anew may let in or pause others than the one that had learned; nothing else differs.
    changed = {e.program for e in (*first, *paused)}
    assert inside - changed == before[0] - changed
    assert waiting - changed == before[1] - changed
    assert gave_up - changed == before[2] - changed
    assert anonymous == before[3]
    for program in before[0] | before[1]:
        old, now = gate_of(run).programs.get(program), gate.programs.get(program)
        assert set(old.in_flight) | set(old.held) == set(now.in_flight) | set(now.held)
        assert (old.turns, old.context_tokens, old.arrived_s) == (now.turns, now.context_tokens, now.arrived_s)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), window=st.integers(1, 5))
def test_a_gate_made_anew_decides_next_what_the_old_one_would_have(seed, window):
    run = Run(consumers=[AdmissionConsumer()])
    server = serve(run, SERVER, 50_000, f"window:{window}")
    anything(server, random.Random(seed), 60, chats=0.0)
    run.tick(server.now_s)
    new = rebuilt(server)
    assert sets(gate_of(new)) == sets(gate_of(run))
    chance = random.Random(seed + 1)
    for number in range(30):
        # Both hear the same, whatever they answered: the server is not the one to tell them apart.
        at_s = server.now_s + 0.2 * number
        program = f"p{chance.randrange(10)}"
        if chance.random() < 0.5:
            event = TurnSubmitted(
                time_s=at_s, program=program, turn=f"n{number}", prompt_tokens=600, held=chance.random() < 0.5
            )
        else:
            turn = chance.choice((*server.running, *server.held, f"n{chance.randrange(30)}"))
            program = server.running.get(turn, server.held.get(turn, (program,)))[0]
            event = TurnEnded(time_s=at_s, program=program, turn=turn, prompt_tokens=600, output_tokens=20)
        one, other = (
            [(e.program, e.decision, e.waited_s) for e in each.publish(SERVER, event) if isinstance(e, AdmissionTicket)]
            for each in (run, new)
        )
        assert one == other
        assert sets(gate_of(new)) == sets(gate_of(run))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), capacity=st.sampled_from([3_000, 12_000]))
def test_telling_the_same_process_again_changes_nothing_and_keeps_histories(seed, capacity):
    run = Run(consumers=[AdmissionConsumer()])
    server = serve(run, SERVER, capacity)
    anything(server, random.Random(seed), 100, chats=0.0)
    run.tick(server.now_s)
    gate = gate_of(run)
    before = sets(gate)
    known = {name: gate.programs.get(name) for name in (f"p{n}" for n in range(10))}
    histories = {name: one.view().history for name, one in known.items() if one is not None and one.turns}
    run.said.clear()
    server.tell()
    assert gate_of(run) is gate and sets(gate) == before
    assert {name: gate.programs.get(name).view().history for name in histories} == histories
    assert {decision for _, decision in tickets(run)} <= {"waiting"}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), capacity=st.sampled_from([3_000, 12_000]), again=st.booleans())
def test_when_all_has_ended_nothing_is_left_under_way_whatever_was_lost_before(seed, capacity, again):
    run = Run(consumers=[AdmissionConsumer()])
    server = serve(run, SERVER, capacity)
    for part in range(3):
        anything(server, random.Random(seed + part), 60)
        if again:
            run = rebuilt(server)
            server.restarted()
    while server.running or server.held:
        server.now_s += 0.5
        server.end(next(iter((*server.running, *server.held))), 10)
        run.tick(server.now_s)
    gate = gate_of(run)
    assert not sets(gate)[1] and sets(gate)[3] == 0
    assert not [name for name in sets(gate)[0] if gate.programs.get(name).in_flight]
    assert sets(gate)[0] == {name for name in (f"p{number}" for number in range(10)) if server.gate.has_place(name)}


def test_programs_that_wait_are_answered_when_they_are_told_again():
    _, server = running()
    for name in "abc":
        server.submit(name, f"{name}1", 1000)
    new = rebuilt(server)
    assert [(e.program, e.decision) for e in new.said if isinstance(e, AdmissionTicket)] == [
        ("b", "waiting"),
        ("c", "waiting"),
    ]
    assert isinstance(new.said[-1], AdmissionWindow)


def test_a_turn_that_its_server_has_not_let_go_yet_though_its_program_has_a_place_is_under_way():
    run = Run(consumers=[AdmissionConsumer()])
    held = TurnState(turn="a1", prompt_tokens=700, since_s=4.0, held=True)
    program = ProgramState(program="a", phase="held", admission="admitted", since_s=4.0, under_way=(held,))
    gate = GateSettings(policy="window:1", capacity_tokens=1000)
    run.publish(SERVER, SourceState(time_s=5.0, role="server", programs=(program,), gate=gate))
    assert sets(gate_of(run)) == ({"a"}, set(), set(), 0)
    assert gate_of(run).programs.get("a").in_flight == {"a1": (700, 4.0)}


def test_the_first_turn_of_a_chat_told_again_is_nobodys_and_ends_as_such():
    _, server = running()
    server.submit("chat", "c1", 3000, gated=False)
    new = rebuilt(server)
    assert sets(gate_of(new)) == (set(), set(), set(), 3000)
    said_by(SERVER, new, TurnEnded, server.now_s, program="chat", turn="c1", prompt_tokens=3000, output_tokens=5)
    assert sets(gate_of(new)) == (set(), set(), set(), 0)
    assert not gate_of(new).programs.get("chat").in_flight


def test_a_program_without_a_turn_under_way_that_is_told_as_paused_stays_so():
    run, server = running("footprint", capacity=10_000)
    server.submit("a", "a1", 3000)
    server.now_s += 0.1
    server.submit("b", "b1", 3000)
    server.submit("a", "a2", 4000)
    server.end("b1", 1500)
    assert sets(gate_of(run)) == ({"a"}, set(), {"b"}, 0)
    assert sets(gate_of(rebuilt(server))) == ({"a"}, set(), {"b"}, 0)


def test_times_of_another_hosts_clock_become_this_ones():
    _, server = running()
    server.submit("a", "a1", 1000)
    server.end("a1", 10)
    server.submit("b", "b1", 1000)
    server.now_s += 1.5
    gate = gate_of(rebuilt(server, at_s=50.0))
    assert gate.programs.get("a").view().idle_s(50.0) == pytest.approx(1.5)
    assert gate.programs.get("b").view().waiting_since_s == pytest.approx(48.5)


def test_a_state_in_many_parts_counts_when_it_is_whole():
    run = Run(consumers=[AdmissionConsumer()])
    told = [ProgramState(program=f"{number:0200d}", turns=1, admission="admitted") for number in range(900)]
    gate = GateSettings(policy="window:5", capacity_tokens=1000)
    *first, last = state_parts("server", told, (), (TurnState(turn="n", prompt_tokens=70),), gate)
    assert len(first) > 2
    for part in first:
        assert run.publish(SERVER, part, 1.0) == []
    (window,) = run.publish(SERVER, last, 1.0)
    assert (window.admitted, window.anonymous_tokens) == (900, 70)
    # One part is missing: what was known stays.
    for part in (*first[1:], last):
        assert run.publish(SERVER, part, 2.0) == []
    assert gate_of(run).snapshot().admitted == 900


def test_a_program_that_its_server_does_not_tell_of_any_more_is_gone():
    run, server = running()
    server.submit("a", "a1", 1000)
    server.submit("b", "b1", 1000)
    run.said.clear()
    turn = TurnState(turn="b1", prompt_tokens=1000, since_s=100.0, held=True)
    b = ProgramState(program="b", phase="held", admission="waiting", since_s=100.0, arrived_s=100.0, under_way=(turn,))
    run.publish(SERVER, SourceState(time_s=101.0, role="server", programs=(b,), gate=server.settings))
    assert sets(gate_of(run)) == ({"b"}, set(), set(), 0)
    assert tickets(run) == [("b", "admitted")]
