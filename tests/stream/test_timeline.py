"""The timeline: a valid trace, and what is in it."""

import json
import random
import tracemalloc
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mars_sglang.control.admission import AdmissionConsumer
from mars_sglang.stream.events import (
    AdmissionTicket,
    ExecutorLoad,
    FirstToken,
    KvReclaimed,
    KvReleased,
    KvRetained,
    PausePredicted,
    ProgramEnded,
    SourceStopped,
    ToolEnded,
    ToolFailed,
    ToolStarted,
    ToolUse,
    TurnEnded,
    TurnPassed,
    TurnRetracted,
    TurnSubmitted,
)
from mars_sglang.stream.timeline import main
from tests.stream.recorded_run import CONTROL, Run, anything, serve, turn

SERVER, ENGINE, SIDECAR = "server:host:9:0000000a", "engine:host:8:0000000a", "sidecar:host:7:0000000a"


class Trace:
    """A trace as a viewer reads it, checked against the format."""

    def __init__(self, path):
        whole = json.loads(path.read_bytes())
        assert set(whole) == {"traceEvents", "displayTimeUnit"} and whole["displayTimeUnit"] in ("ms", "ns")
        self.groups: dict[int, str] = {}
        self.tracks: dict[tuple[int, int], str] = {}
        """Name by group and number."""
        self.slices = defaultdict(list)
        self.instants = defaultdict(list)
        self.counters = defaultdict(list)
        for event in whole["traceEvents"]:
            self._take(event)
        for track in self.slices:
            _nested(self.slices[track])

    def _take(self, event):
        pid, tid = event["pid"], event["tid"]
        assert type(pid) is int and type(tid) is int and isinstance(event["name"], str) and event["name"]
        match event["ph"]:
            case "M":
                if event["name"] == "process_name":
                    assert pid not in self.groups
                    self.groups[pid] = event["args"]["name"]
                elif event["name"] == "thread_name":
                    assert (pid, tid) not in self.tracks and tid != pid
                    self.tracks[pid, tid] = event["args"]["name"]
                else:
                    assert event["name"] == "process_sort_index"
                    assert type(event["args"]["sort_index"]) is int
                return
            case "X":
                assert type(event["dur"]) is int and event["dur"] > 0
                found = self.slices[self._track(pid, tid)]
                found.append((event["ts"], event["ts"] + event["dur"], event["name"], event["args"]))
            case "i":
                assert event["s"] == "t"
                self.instants[self._track(pid, tid)].append((event["ts"], event["name"], event["args"]))
            case "C":
                assert event["args"] and all(type(value) in (int, float) for value in event["args"].values())
                self.counters[self.groups[pid], event["name"]].append((event["ts"], event["args"]))
            case other:
                raise AssertionError(f"phase {other}")
        assert type(event["ts"]) is int and event["ts"] >= 0

    def _track(self, pid, tid):
        return self.groups[pid], self.tracks[pid, tid]

    def names(self, *track):
        return [(begin, end, name) for begin, end, name, _ in self.slices[track]]


def _nested(slices):
    inside = []
    for begin, end, *_ in sorted(slices, key=lambda one: (one[0], -one[1])):
        while inside and inside[-1] <= begin:
            inside.pop()
        assert not inside or end <= inside[-1], "slices of one track overlap"
        inside.append(end)


def traced(path) -> Trace:
    out = path.with_suffix(".json")
    assert main([str(path), "-o", str(out)]) == 0
    return Trace(out)


class Events:
    """Writes events at their times, in the order given."""

    def __init__(self, path, **session):
        self.path = path
        self.run = Run(path, **session)

    def __call__(self, source, kind, time_s, **fields):
        self.run.publish(source, kind(time_s=time_s, **fields))

    def trace(self) -> Trace:
        self.run.close()
        return traced(self.path)


@pytest.fixture
def say(tmp_path):
    return Events(tmp_path / "recording")


def test_a_program_alternates_between_turns_and_tools(tmp_path):
    say = Events(tmp_path / "recording", consumers=[AdmissionConsumer()])
    server = serve(say.run, SERVER, 50_000)
    turn(server, say.run, "p", "t1", tool="pytest")
    server.now_s = 104.0
    turn(server, say.run, "p", "t2", tokens=1300)
    trace = say.trace()
    drawn = trace.names("programs", "p")
    assert drawn[:5] == [
        (0, 200_000, "queued"),
        (200_000, 500_000, "prefill"),
        (500_000, 1_500_000, "decode"),
        (1_500_000, 4_000_000, "tool: pytest"),
        (1_500_000, 4_000_000, "retained"),
    ]
    _, _, _, decode = trace.slices["programs", "p"][2]
    assert decode["turn"] == "t1" and decode["output_tokens"] == 100 and decode["finish_reason"] == "stop"
    assert trace.slices["programs", "p"][4][3] == {"pages": 1000, "tokens": 1000}
    windows = trace.counters[f"admission of {SERVER}", "programs"]
    assert windows[:2] == [
        (0, {"admitted": 0, "waiting": 0, "paused": 0}),
        (0, {"admitted": 1, "waiting": 0, "paused": 0}),
    ]
    assert trace.counters[f"admission of {SERVER}", "tokens"][0][1]["capacity"] == 50_000


def test_the_time_at_the_gate_is_apart_from_the_time_in_the_queue(tmp_path):
    say = Events(tmp_path / "recording", consumers=[AdmissionConsumer()])
    server = serve(say.run, SERVER, 50_000, "window:1")
    server.submit("a", "a1", 3000)
    server.submit("b", "b1", 3000)
    server.submit("c", "c1", 3000)
    server.now_s = 102.0
    server.end("c1")
    server.now_s = 103.0
    server.end("a1")
    server.now_s = 105.0
    say(ENGINE, FirstToken, 105.0, program="b", turn="b1", prefill_s=1.0)
    server.end("b1", 10, last=True)
    trace = say.trace()
    assert trace.names("programs", "a") == [(0, 3_000_000, "queued")]
    assert trace.names("programs", "b") == [
        (0, 3_000_000, "held"),
        (3_000_000, 4_000_000, "queued"),
        (4_000_000, 5_000_000, "prefill"),
    ]
    assert trace.names("programs", "c") == [(0, 2_000_000, "held")]
    # To wait is what its slice shows; the other answers are marks.
    assert [name for _, name, _ in trace.instants["programs", "b"]] == ["released", "program ended"]


def test_a_turn_that_went_without_a_ticket_is_held_until_then_and_marked(say):
    say(SERVER, TurnSubmitted, 1.0, program="p", turn="t1", held=True)
    say(CONTROL, AdmissionTicket, 1.0, program="p", server=SERVER, decision="waiting")
    say(SERVER, TurnPassed, 3.0, program="p", turn="t1", reason="slow")
    say(SERVER, TurnEnded, 4.0, program="p", turn="t1", last=True)
    trace = say.trace()
    assert trace.names("programs", "p") == [(0, 2_000_000, "held"), (2_000_000, 3_000_000, "queued")]
    assert trace.instants["programs", "p"] == [(2_000_000, "let go", {"reason": "slow"})]


def test_two_servers_have_a_group_of_counters_each(tmp_path):
    say = Events(tmp_path / "recording", consumers=[AdmissionConsumer()])
    for source, policy in ((SERVER, "window:1"), ("server:host:9:0000000b", "footprint")):
        serve(say.run, source, 50_000, policy).submit("p", f"t of {source}", 100)
    trace = say.trace()
    groups = {group for group, _ in trace.counters}
    assert groups == {f"admission of {SERVER}", "admission of server:host:9:0000000b"}


def test_parallel_turns_of_a_program_have_a_track_each(say):
    for name, at_s in (("t1", 1.0), ("t2", 2.0)):
        say(SERVER, TurnSubmitted, at_s, program="p", turn=name)
    say(SERVER, TurnEnded, 3.0, program="p", turn="t1")
    say(SERVER, TurnEnded, 4.0, program="p", turn="t2", output_tokens=5)
    say(SERVER, TurnSubmitted, 6.0, program="p", turn="t3", tool="browser")
    say(SERVER, TurnEnded, 7.0, program="p", turn="t3", last=True)
    trace = say.trace()
    assert trace.names("programs", "p") == [
        (0, 2_000_000, "queued"),
        (3_000_000, 5_000_000, "tool: browser"),
        (5_000_000, 6_000_000, "queued"),
    ]
    assert trace.names("programs", "p (2)") == [(1_000_000, 3_000_000, "queued")]


def test_tool_calls_are_drawn_at_their_executor_and_beside_their_program(say):
    say(SIDECAR, ToolStarted, 1.0, program="p", call="1", tool="shell", command="make", executor="box")
    say(SIDECAR, ToolStarted, 2.0, call="2", tool="browser", executor="box")
    say(SIDECAR, ToolEnded, 3.0, program="p", call="1", tool="shell", command="make", executor="box", duration_s=2.0)
    say(SIDECAR, ToolFailed, 4.0, call="2", tool="browser", executor="box", duration_s=2.0, error="killed")
    say(SIDECAR, ToolEnded, 4.5, call="0", tool="early", executor="box", duration_s=9.0)
    say(SIDECAR, ToolStarted, 5.0, call="3", tool="late", executor="box")
    say(SIDECAR, SourceStopped, 6.0)
    trace = say.trace()
    make = (0, 2_000_000, "shell: make")
    assert trace.names("executor box", "tool calls") == [make, (4_000_000, 5_000_000, "late")]
    assert trace.names("executor box", "tool calls (2)") == [(1_000_000, 3_000_000, "browser")]
    assert trace.names("executor box", "tool calls (3)") == [(0, 3_500_000, "early")]
    assert trace.names("programs", "p tool calls") == [make]
    assert trace.slices["executor box", "tool calls (2)"][0][3]["error"] == "killed"


def test_the_load_of_an_executor_is_counters_without_what_is_unknown(say):
    say(SIDECAR, ExecutorLoad, 1.0, executor="box", cores=8, cores_used=2.5, run_queue=3.0, cpu_pressure=0.25, queued=4)
    trace = say.trace()
    assert trace.counters == {
        ("executor box", "cores"): [(0, {"used": 2.5})],
        ("executor box", "run queue"): [(0, {"tasks": 3.0})],
        ("executor box", "pressure"): [(0, {"cpu": 0.25})],
        ("executor box", "calls"): [(0, {"active": 0, "queued": 4})],
    }


def test_what_happens_to_a_context_is_drawn_in_its_pause(say):
    say(SERVER, TurnSubmitted, 1.0, program="p", turn="t1")
    say(ENGINE, TurnRetracted, 1.5, program="p", turn="t1", output_tokens=9, retractions=1)
    say(ENGINE, KvRetained, 1.9, program="p", turn="t1", pages=10, page_tokens=16)
    tools = (ToolUse("shell", "ls"), ToolUse("search"))
    say(SERVER, TurnEnded, 2.0, program="p", turn="t1", output_tokens=5, tools=tools)
    say(ENGINE, PausePredicted, 2.0, program="p", key="ls", probabilities=(0.5, 0.8), quantiles_s=(1.0, 4.0))
    say(CONTROL, AdmissionTicket, 2.5, program="p", server=SERVER, decision="paused", reason="no room")
    say(ENGINE, KvReclaimed, 3.0, program="p", pages=4, pages_left=6)
    say(ENGINE, KvReclaimed, 4.0, program="p", pages=6, pages_left=0)
    say(ENGINE, KvReleased, 5.0, program="p")
    say(SERVER, ProgramEnded, 6.0, program="p", reason="dormant")
    trace = say.trace()
    assert trace.names("programs", "p")[1:] == [
        (1_000_000, 5_000_000, "tool: ls, search"),
        (1_000_000, 3_000_000, "retained"),
    ]
    assert trace.slices["programs", "p"][1][3] == {"expected_s": {"0.5": 1.0, "0.8": 4.0}}
    assert [(at, name) for at, name, _ in trace.instants["programs", "p"]] == [
        (500_000, "retracted"),
        (1_500_000, "paused"),
        (2_000_000, "reclaimed"),
        (3_000_000, "reclaimed"),
        (5_000_000, "program ended"),
    ]


def test_a_chat_that_turns_out_to_be_a_program_has_its_first_turn_in_both_rows(say):
    for name, at_s, gated in (("t1", 1.0, False), ("t2", 5.0, True)):
        say(SERVER, TurnSubmitted, at_s, program="p", turn=name, gated=gated)
        say(ENGINE, FirstToken, at_s + 0.5, program="p" if gated else None, turn=name, prefill_s=0.5)
        say(SERVER, TurnEnded, at_s + 1.0, program="p", turn=name, output_tokens=5, last=gated)
    say(SERVER, TurnSubmitted, 7.0, program="chat", turn="t3", gated=False)
    say(SERVER, TurnEnded, 8.0, program="chat", turn="t3", output_tokens=5)
    say(ENGINE, PausePredicted, 8.0, program="chat")
    say(SERVER, ProgramEnded, 9.0, program="chat", reason="dormant")
    trace = say.trace()
    first = [(0, 500_000, "prefill"), (500_000, 1_000_000, "decode")]
    second = [(4_000_000, 4_500_000, "prefill"), (4_500_000, 5_000_000, "decode")]
    assert trace.names("programs", "p") == [*first, (1_000_000, 4_000_000, "pause"), *second]
    assert trace.names("programs", "without a program") == [*first, (6_000_000, 7_000_000, "queued")]
    assert set(trace.tracks.values()) == {"p", "without a program"}


def test_messages_that_came_late_are_drawn_when_they_happened(say):
    say(SERVER, TurnSubmitted, 1.0, program="p", turn="t1")
    say(SERVER, TurnEnded, 3.0, program="p", turn="t1", last=True)
    say(ENGINE, FirstToken, 2.0, program="p", turn="t1", prefill_s=0.5)
    say(SERVER, TurnSubmitted, 9.0, program="q", turn="t2")
    trace = say.trace()
    assert [(end, name) for _, end, name in trace.names("programs", "p")] == [
        (500_000, "queued"),
        (1_000_000, "prefill"),
        (2_000_000, "decode"),
    ]


def test_a_clock_that_began_anew_goes_on_from_where_the_last_one_was(say):
    say(SERVER, TurnSubmitted, 5000.0, program="p", turn="t1")
    say(SERVER, TurnEnded, 5001.0, program="p", turn="t1", last=True)
    say.run.close()
    say.run = Run(say.path, epoch=2)
    say("server:host:9:0000000b", TurnSubmitted, 10.0, program="q", turn="t1")
    say("server:host:9:0000000b", TurnEnded, 12.0, program="q", turn="t1", last=True)
    trace = say.trace()
    assert trace.names("programs", "p") == [(0, 1_000_000, "queued")]
    assert trace.names("programs", "q") == [(1_000_000, 3_000_000, "queued")]


def test_what_is_under_way_at_the_end_is_drawn_up_to_it(say):
    say(SERVER, TurnSubmitted, 1.0, program="p", turn="t1")
    say(SIDECAR, ToolStarted, 2.0, call="1", tool="make", executor="box")
    say(SERVER, TurnSubmitted, 3.0, turn="anonymous")
    say(SERVER, TurnEnded, 4.0, turn="anonymous")
    trace = say.trace()
    ((begin, end, _, args),) = trace.slices["programs", "p"]
    assert (begin, end, args["unfinished"]) == (0, 3_000_000, True)
    ((begin, end, _, args),) = trace.slices["executor box", "tool calls"]
    assert (begin, end, args["unfinished"]) == (1_000_000, 3_000_000, True)
    assert trace.names("programs", "without a program") == [(2_000_000, 3_000_000, "queued")]


def test_a_server_that_stops_takes_its_turns_along(say):
    say(SERVER, TurnSubmitted, 1.0, program="p", turn="t1")
    say(SERVER, SourceStopped, 2.0)
    say(SIDECAR, SourceStopped, 9.0)
    assert say.trace().names("programs", "p") == [(0, 1_000_000, "queued")]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), disorder_s=st.sampled_from([0.0, 0.9]))
def test_any_recording_gives_a_valid_trace(tmp_path_factory, seed, disorder_s):
    path = tmp_path_factory.mktemp("run") / "recording"
    chance = random.Random(seed)
    run = Run(path, [AdmissionConsumer()])
    server = serve(run, SERVER, 9_000)
    server.publish = lambda event: run.publish(SERVER, event, event.time_s + disorder_s * chance.random())
    for step in range(30):
        anything(server, chance, 8, programs=4)
        at_s = server.now_s
        for turn_id, (program, _) in [*server.running.items()][:2]:
            run.publish(ENGINE, FirstToken(time_s=at_s, program=program, turn=turn_id, prefill_s=chance.random() * 3))
        program = f"p{step % 4}"
        run.publish(ENGINE, KvRetained(time_s=at_s, program=program, pages=5))
        run.publish(SIDECAR, ToolStarted(time_s=at_s, call=f"{step // 3}", tool="x", program=program, executor="box"))
        ended = ToolEnded(time_s=at_s, call=f"{step // 2}", tool="x", executor="box", duration_s=chance.random() * 9)
        run.publish(SIDECAR, ended)
    run.close()
    assert traced(path).slices


def test_memory_does_not_grow_with_the_recording(tmp_path):
    peaks = []
    for turns in (500, 4000):
        say = Events(tmp_path / f"of {turns}")
        for number in range(turns):
            at_s = float(number)
            say(SERVER, TurnSubmitted, at_s, program=f"p{number % 5}", turn=f"t{number}")
            say(SIDECAR, ExecutorLoad, at_s + 0.2, executor="box", cores_used=1.0)
            say(SERVER, TurnEnded, at_s + 0.5, program=f"p{number % 5}", turn=f"t{number}")
        say.run.close()
        tracemalloc.start()
        assert main([str(say.path)]) == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 50_000
    assert (tmp_path / "of 500.trace.json").exists()


@pytest.mark.parametrize("content", [b"", b"no recording", None])
def test_what_is_no_recording_is_refused(tmp_path, capsys, content):
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    assert main([str(path)]) == 2
    assert str(path) in capsys.readouterr().err
    assert not (tmp_path / "file.trace.json").exists()


def test_a_trace_that_cannot_be_written_or_would_overwrite_the_recording_is_refused(say, capsys):
    say(SERVER, TurnSubmitted, 1.0, program="p", turn="t1")
    say.run.close()
    before = say.path.read_bytes()
    assert main([str(say.path), "-o", str(say.path / "inside")]) == 2
    with pytest.raises(SystemExit) as ended:
        main([str(say.path), "-o", str(say.path)])
    assert ended.value.code == 2 and say.path.read_bytes() == before
