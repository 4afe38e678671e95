"""When a source tells its state, and that the parts of it are small enough and make the whole."""

from mars_sglang.stream.codec import MAX_EVENT_BYTES, encode
from mars_sglang.stream.events import GateSettings, Heartbeat, ProgramState, ToolCallState, TurnState
from mars_sglang.stream.resync import Resync, state_parts


def test_state_is_due_at_the_first_heartbeat_at_a_new_epoch_and_when_named():
    resync = Resync("server:h:1:2")
    assert resync.due(Heartbeat(epoch=5))
    assert not resync.due(Heartbeat(epoch=5, resend=("server:h:1:3",)))
    assert resync.due(Heartbeat(epoch=5, resend=("server:h:1:3", "server:h:1:2")))
    assert not resync.due(Heartbeat(epoch=5))
    assert resync.due(Heartbeat(epoch=6))


def test_an_empty_state_is_one_part():
    (part,) = state_parts("server")
    assert (part.part, part.done, part.programs) == (0, True, ())


def test_a_large_state_is_cut_into_numbered_parts_that_fit():
    programs = [ProgramState(program=f"{i:0256d}", recognised_by="continuation") for i in range(1000)]
    calls = [ToolCallState(call=f"{i:0256d}", tool="shell") for i in range(300)]
    parts = list(state_parts("server", programs, calls))
    assert [part.part for part in parts] == list(range(len(parts)))
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert [program for part in parts for program in part.programs] == programs
    assert [call for part in parts for call in part.tool_calls] == calls
    assert all(len(encode(part)) < MAX_EVENT_BYTES - 500 for part in parts)


def test_a_gate_and_the_turns_of_no_program_come_last_in_a_part_of_their_own():
    gate = GateSettings(policy="mars", capacity_tokens=10)
    turns = (TurnState(turn="n", prompt_tokens=5),)
    first, last = state_parts("server", [ProgramState(program="p")], (), turns, gate)
    assert (first.part, first.done, first.gate, first.under_way) == (0, False, None, ())
    assert (last.part, last.done, last.gate, last.under_way, last.programs) == (1, True, gate, turns, ())


def test_of_too_many_turns_the_newest_are_told():
    turns = tuple(TurnState(turn=f"{i:0250d}", prompt_tokens=i) for i in range(1000))
    program = ProgramState(program="p" * 300, parent="q" * 300, under_way=turns)
    gate = GateSettings(policy="mars", capacity_tokens=10, weights={f"{i:012d}": 2.0 for i in range(1000)})
    parts = list(state_parts("server", [ProgramState(program="before"), program], (), turns, gate))
    (told,) = [one for part in parts for one in part.programs if one.program == program.program]
    assert 100 < len(told.under_way) < 1000 and told.under_way == turns[-len(told.under_way) :]
    assert 100 < len(parts[-1].under_way) < 1000 and parts[-1].under_way == turns[-len(parts[-1].under_way) :]
    assert parts[-1].gate == gate
    assert all(len(encode(part)) < MAX_EVENT_BYTES - 500 for part in parts)
