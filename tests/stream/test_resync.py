"""When a source tells its state, and that the parts of it are small enough and make the whole."""

from mars_sglang.stream.codec import MAX_EVENT_BYTES, encode
from mars_sglang.stream.events import Heartbeat, ProgramState, ToolCallState
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
