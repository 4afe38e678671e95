"""What the events come to: the same for the same events, bounded, and owned by who told of it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mars_sglang.control import state as state_module
from mars_sglang.control.state import State
from mars_sglang.stream.codec import encode
from mars_sglang.stream.events import (
    AdmissionTicket,
    AdmissionWindow,
    EngineSpeed,
    ExecutorLoad,
    FirstToken,
    KvReclaimed,
    KvReleased,
    KvRetained,
    PausePredicted,
    ProgramEnded,
    ProgramState,
    SourceState,
    SourceStopped,
    ToolCallState,
    ToolEnded,
    ToolFailed,
    ToolStarted,
    ToolUse,
    TurnEnded,
    TurnPassed,
    TurnRetracted,
    TurnState,
    TurnSubmitted,
)
from mars_sglang.stream.resync import state_parts
from mars_sglang.stream.snapshot import Snapshot

SERVER, ENGINE, SIDECAR = "server:h:1:a", "engine:h:2:a", "sidecar:h:3:a"


def after(*events, start_s: float = 1.0) -> State:
    """The state after events that came a second apart."""
    state = State()
    for number, event in enumerate(events):
        state.apply(event, start_s + number)
    return state


def submitted(program="p", turn="t", **fields):
    return TurnSubmitted(source=SERVER, program=program, turn=turn, **fields)


def ended(program="p", turn="t", **fields):
    return TurnEnded(source=SERVER, program=program, turn=turn, **fields)


def test_a_program_reasons_from_its_submission_to_its_turns_end_and_then_acts():
    tools = (ToolUse("shell", "pytest"),)
    running = after(submitted(prompt_tokens=100, number=2, parent="root", recognised_by="body program_id"))
    assert running.program_state("p") == ProgramState(
        program="p",
        phase="reasoning",
        since_s=1.0,
        arrived_s=1.0,
        turns=2,
        context_tokens=100,
        parent="root",
        recognised_by="body program_id",
    )
    running.apply(ended(prompt_tokens=100, output_tokens=20, tools=tools), 5.0)
    told = running.program_state("p")
    assert (told.phase, told.since_s, told.turns, told.context_tokens, told.tools) == ("acting", 5.0, 3, 120, tools)


def test_a_program_with_two_turns_at_a_time_acts_when_both_have_ended():
    state = after(submitted(turn="a"), submitted(turn="b"), ended(turn="a"))
    assert state.program_state("p").phase == "reasoning"
    state.apply(ended(turn="b"), 9.0)
    assert state.program_state("p").phase == "acting"


def ticket(decision, program="p"):
    return AdmissionTicket(server=SERVER, program=program, decision=decision)


def test_behind_a_gate_a_program_is_held_until_its_ticket():
    state = after(submitted(held=True), ticket("waiting"))
    assert (state.program_state("p").phase, state.program_state("p").admission) == ("held", "waiting")
    state.apply(ticket("admitted"), 7.0)
    assert (state.program_state("p").phase, state.program_state("p").admission) == ("reasoning", "admitted")
    assert state.program_state("p").since_s == 7.0
    for event in (ended(), ticket("paused"), submitted(turn="u", held=True)):
        state.apply(event, 9.0)
    assert (state.program_state("p").phase, state.program_state("p").admission) == ("held", "paused")


def test_a_program_whose_place_was_released_has_to_wait_again():
    state = after(submitted(held=True), ticket("admitted"), ended(), ticket("released"))
    assert state.program_state("p").admission is None
    state.apply(submitted(turn="u", held=True), 9.0)
    assert (state.program_state("p").phase, state.program_state("p").admission) == ("held", "waiting")


def test_a_server_that_asks_for_a_program_that_had_a_place_waits_for_its_ticket():
    state = after(submitted(held=True), ticket("admitted"), ended(), submitted(turn="u", held=True))
    assert (state.program_state("p").phase, state.program_state("p").admission) == ("held", "waiting")
    state.apply(ticket("resumed"), 9.0)
    assert (state.program_state("p").phase, state.program_state("p").admission) == ("reasoning", "admitted")


def test_a_turn_that_does_not_wait_is_not_held():
    assert after(submitted()).program_state("p").phase == "reasoning"


def test_a_program_that_its_server_tells_of_keeps_its_tenant_and_its_turns_by_name():
    turns = (TurnState(turn="t", prompt_tokens=9), TurnState(turn="u", prompt_tokens=9))
    told = ProgramState(program="p", phase="reasoning", tenant="acme", under_way=turns)
    state = after(SourceState(source=SERVER, role="server", programs=(told,)))
    assert state.program_state("p").tenant == "acme"
    assert state.program_state("p").under_way == ()
    state.apply(ended(turn="t"), 3.0)
    assert state.program_state("p").phase == "reasoning"
    state.apply(ended(turn="u"), 4.0)
    assert state.program_state("p").phase == "acting"


def test_retained_pages_follow_the_engine():
    state = after(submitted(), KvRetained(source=ENGINE, program="p", pages=9, page_tokens=16))
    assert (state.program_state("p").retained_pages, state.program_state("p").page_tokens) == (9, 16)
    state.apply(KvReclaimed(source=ENGINE, program="p", pages=4, pages_left=5, page_tokens=16), 3.0)
    assert state.program_state("p").retained_pages == 5
    state.apply(KvReleased(source=ENGINE, program="p", pages=5), 4.0)
    assert state.program_state("p").retained_pages == 0


def test_a_tool_call_is_in_flight_until_it_ends_or_fails():
    start = [ToolStarted(source=SIDECAR, call=call, tool="shell", executor="box") for call in "ab"]
    state = after(*start, ToolEnded(source=SIDECAR, call="a"))
    assert [call.call for call in state.tool_calls.values()] == ["b"]
    state.apply(ToolFailed(source=SIDECAR, call="b"), 9.0)
    assert not state.tool_calls


def test_a_load_grows_stale_and_stays_shown():
    state = after(ExecutorLoad(source=SIDECAR, executor="box", cores=8.0), start_s=10.0)
    assert not state.is_stale("box", 12.0)
    assert state.is_stale("box", 12.1)
    (shown,) = state.describe(12.1)["executors"]
    assert (shown.load.cores, shown.at_s, shown.stale) == (8.0, 10.0, True)
    assert state.is_stale("never heard of", 12.0)


def test_an_ended_program_is_forgotten():
    assert not after(submitted(), ended(), ProgramEnded(program="p")).programs


def test_what_a_source_tells_replaces_what_it_told_and_leaves_the_rest():
    other = TurnSubmitted(source="server:other:1:a", program="theirs")
    state = after(
        submitted("gone"),
        submitted("stays", turn="x"),
        other,
        ToolStarted(source=SIDECAR, call="c"),
        KvRetained(source=ENGINE, program="stays", pages=3),
    )
    kept = ProgramState(program="stays", phase="reasoning", since_s=2.0, arrived_s=1.5, turns=4, admission="admitted")
    for part in state_parts("server", [kept]):
        state.apply(SourceState(source=SERVER, role=part.role, programs=part.programs), 20.0)
    assert set(state.programs) == {"stays", "theirs"}
    assert state.program_state("stays").retained_pages == 3
    assert state.program_state("stays").turns == 4
    assert len(state.tool_calls) == 1
    state.apply(ended("stays", turn="x"), 21.0)
    assert state.program_state("stays").phase == "acting"
    state.apply(SourceState(source=SIDECAR, role="sidecar"), 22.0)
    state.apply(SourceState(source=ENGINE, role="engine", programs=(ProgramState(program="stays"),)), 23.0)
    assert not state.tool_calls
    assert state.program_state("stays").retained_pages == 0


def test_a_state_with_a_part_missing_counts_for_nothing():
    state = after(submitted("known"))
    for part, done in ((0, False), (2, True)):
        told = (ProgramState(program=f"part {part}"),)
        state.apply(SourceState(source=SERVER, role="server", part=part, programs=told, done=done), 5.0)
    assert list(state.programs) == ["known"]
    for part, done in ((0, False), (1, True)):
        told = (ProgramState(program=f"part {part}"),)
        state.apply(SourceState(source=SERVER, role="server", part=part, programs=told, done=done), 6.0)
    assert list(state.programs) == ["part 0", "part 1"]


def test_what_only_a_stopped_source_knew_is_over():
    state = after(
        submitted(),
        TurnSubmitted(source="server:other:1:a", program="theirs"),
        KvRetained(source=ENGINE, program="theirs", pages=3),
        ToolStarted(source=SIDECAR, call="c"),
        ExecutorLoad(source=SIDECAR, executor="box"),
    )
    for source in (SERVER, ENGINE, SIDECAR):
        state.apply(SourceStopped(source=source), 30.0)
    assert list(state.programs) == ["theirs"]
    assert not state.retained and not state.tool_calls and not state.executors


def test_tables_are_bounded_and_the_one_heard_of_least_lately_goes(monkeypatch):
    for name in ("MAX_PROGRAMS", "MAX_TOOL_CALLS", "MAX_EXECUTORS"):
        monkeypatch.setattr(state_module, name, 3)
    events = []
    for i in range(6):
        events += [
            submitted(f"p{i}"),
            FirstToken(source=ENGINE, program="p0"),
            KvRetained(source=ENGINE, program=f"p{i}", pages=1),
            ToolStarted(source=SIDECAR, call=f"c{i}"),
            ExecutorLoad(source=SIDECAR, executor=f"e{i}"),
        ]
    state = after(*events)
    assert list(state.programs) == ["p4", "p5", "p0"]
    assert [len(table) for table in (state.retained, state.tool_calls, state.executors)] == [3, 3, 3]


def test_a_snapshot_has_the_programs_heard_of_last_and_says_how_many_it_left_out(monkeypatch):
    monkeypatch.setattr(state_module, "MAX_SNAPSHOT_PROGRAMS", 2)
    described = after(*(submitted(f"p{i}") for i in range(5))).describe(9.0)
    assert [program.program for program in described["programs"]] == ["p4", "p3"]
    assert described["programs_left_out"] == 3


@pytest.mark.parametrize("number", [2**64 - 1, 2**63, -(2**63)])
def test_numbers_from_outside_can_always_be_told_again(number):
    state = after(
        submitted(prompt_tokens=number, number=number),
        ended(prompt_tokens=number, output_tokens=number),
        KvRetained(source=ENGINE, program="p", pages=number, page_tokens=number),
    )
    assert encode(Snapshot(**state.describe(1.0)))


PROGRAMS = st.sampled_from(["p", "q", "r", None])
SOURCES = st.sampled_from([SERVER, ENGINE, SIDECAR, "server:h:9:b"])
KINDS = [TurnSubmitted, FirstToken, TurnEnded, TurnRetracted, KvRetained, KvReleased, KvReclaimed, ProgramEnded]
KINDS += [
    TurnPassed,
    EngineSpeed,
    AdmissionTicket,
    AdmissionWindow,
    PausePredicted,
    ToolStarted,
    ToolEnded,
    ExecutorLoad,
    SourceStopped,
]


@st.composite
def events(draw):
    kind = draw(st.sampled_from([*KINDS, SourceState]))
    fields = {"source": draw(SOURCES), "program": draw(PROGRAMS), "turn": draw(st.sampled_from(["a", "b", None]))}
    if kind is TurnSubmitted:
        fields["held"] = draw(st.booleans())
    if kind in (ToolStarted, ToolEnded):
        fields["call"] = draw(st.sampled_from("xy"))
    if kind in (KvRetained, KvReclaimed):
        fields["pages"] = draw(st.integers(0, 3))
    if kind is AdmissionTicket:
        fields["decision"] = draw(st.sampled_from(["waiting", "admitted", "paused", "resumed", "released"]))
    if kind is SourceState:
        programs = draw(st.lists(st.sampled_from("pqr"), unique=True))
        fields |= {
            "role": draw(st.sampled_from(["server", "engine", "sidecar"])),
            "part": draw(st.integers(0, 1)),
            "done": draw(st.booleans()),
            "programs": tuple(ProgramState(program=name, phase="held", retained_pages=2) for name in programs),
            "tool_calls": (ToolCallState(call="z", tool="shell"),),
        }
    return kind(**fields)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(events(), st.floats(0, 100)), max_size=40))
def test_the_same_events_at_the_same_times_come_to_the_same_bytes(history):
    states = State(), State()
    for event, at_s in history:
        for state in states:
            state.apply(event, at_s)
    one, other = (encode(Snapshot(**state.describe(50.0))) for state in states)
    assert one == other
    for program in states[0].programs:
        told = states[0].program_state(program)
        assert told.phase in ("held", "reasoning", "acting")
        assert told.phase != "held" or told.admission != "admitted"
