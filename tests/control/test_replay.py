"""Replay: the same recording gives the same decisions, and a different one is told apart."""

import json
import random
import subprocess
import sys
import time

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mars_sglang.control.admission import AdmissionConsumer
from mars_sglang.control.pauses import PauseConsumer
from mars_sglang.control.replay import Replay, main
from mars_sglang.stream.codec import encode
from mars_sglang.stream.events import (
    AdmissionTicket,
    AdmissionWindow,
    GateSettings,
    Heartbeat,
    PausePredicted,
    ProgramEnded,
    SourceStopped,
    TurnEnded,
    TurnSubmitted,
)
from mars_sglang.stream.publisher import Publisher
from mars_sglang.stream.recording import Recording, RecordingError, read_recording
from mars_sglang.stream.subscriber import Subscriber
from tests.stream.recorded_run import CONTROL, Run, Server, anything, rewritten, serve

SERVER = "server:host:9:0000000a"
OTHER = "server:host:9:0000000b"


def none(session):
    return ()


class Guesses:
    """A decider with a memory: answers turns' ends, its own kin's answers, and time."""

    def __init__(self, factor: float = 1.0):
        self.factor = factor
        self.ended_s: dict[str, float] = {}
        self.heard = 0

    def hear(self, received, state):
        self.heard += 1
        match received.event:
            case TurnEnded(program=str(program)):
                self.ended_s[program] = received.at_s
                quantile_s = self.factor * self.heard / (1 + len(state.programs))
                yield PausePredicted(program=program, key="all", probabilities=(0.5,), quantiles_s=(quantile_s,))
            case TurnSubmitted(program=str(program)):
                self.ended_s.pop(program, None)

    def tick(self, now_s, state):
        for program in [program for program, at_s in self.ended_s.items() if now_s - at_s > 5.0]:
            del self.ended_s[program]
            yield ProgramEnded(program=program, reason="dormant")


class Echo:
    """Answers what another decider said."""

    def hear(self, received, state):
        if isinstance(received.event, ProgramEnded) and received.event.source == CONTROL:
            yield PausePredicted(program=received.event.program, key="echo", quantiles_s=(received.at_s,))

    def tick(self, now_s, state):
        return ()


def gates(session):
    return [AdmissionConsumer()]


def recorded(path, seed=0, steps=300, consumers=None, capacity=12_000, policy="footprint"):
    run = Run(path, [AdmissionConsumer()] if consumers is None else consumers)
    server = serve(run, SERVER, capacity, policy)
    for _ in range(10):
        anything(server, random.Random(seed), steps // 10)
        run.tick(server.now_s)
        seed += 1
    run.publish(SERVER, SourceStopped(time_s=server.now_s))
    run.close()
    return path


def decisions(path, consumers=gates):
    replay = Replay(Recording(path), consumers)
    return list(replay), replay.notes


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    capacity=st.sampled_from([3_000, 12_000, 60_000]),
    policy=st.sampled_from(["footprint", "window:3", "thunder", "aimd", "concur", "mars"]),
)
def test_gates_driven_at_random_decide_alike_when_replayed(tmp_path_factory, seed, capacity, policy):
    path = recorded(tmp_path_factory.mktemp("run") / "recording", seed, 200, capacity=capacity, policy=policy)
    found, notes = decisions(path)
    assert all(decision.same for decision in found) and not notes
    said = [event for record in read_recording(path) if isinstance(event := record.event, AdmissionTicket)]
    told = [event for decision in found for event in decision.replayed if isinstance(event, AdmissionTicket)]
    assert len(told) == len(said) > 0


def test_two_replays_write_the_same_bytes_and_the_summary_says_that_all_is_the_same(tmp_path, capsys):
    path = recorded(tmp_path / "recording", consumers=(Guesses(), Echo(), AdmissionConsumer()))
    outputs = [tmp_path / "one", tmp_path / "two"]
    for output in outputs:
        assert (
            main([str(path), "--decisions", str(output)], lambda session: (Guesses(), Echo(), AdmissionConsumer())) == 0
        )
    one, two = (output.read_bytes() for output in outputs)
    assert one == two and one
    kinds = {json.loads(line)["kind"] for line in one.splitlines()}
    assert kinds == {"admission_ticket", "admission_window", "pause_predicted", "program_ended"}
    assert "0 different" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (AdmissionTicket, {"waited_s": 1234.5}),
        (AdmissionTicket, {"decision": "paused"}),
        (AdmissionWindow, {"waiting": 99}),
        (TurnEnded, {"output_tokens": 7777}),
    ],
)
def test_a_recording_that_says_otherwise_is_told_apart(tmp_path, capsys, kind, change):
    path = recorded(tmp_path / "recording")
    seen = 0

    def changed(record):
        nonlocal seen
        if not isinstance(record.event, kind) or getattr(record.event, "decision", "") == "released":
            return record
        seen += 1
        if seen != 8:
            return record
        return record._replace(payload=encode(msgspec.structs.replace(record.event, **change)))

    assert main([str(rewritten(path, tmp_path / "changed", changed))], gates) == 1
    said = capsys.readouterr().out
    assert "first difference: message" in said and "  recorded: " in said and "  replayed: " in said


def test_a_place_given_up_by_somebody_else_is_a_difference(tmp_path):
    path = recorded(tmp_path / "recording")

    def changed(record):
        event = record.event
        if isinstance(event, AdmissionTicket) and event.decision == "released":
            return record._replace(payload=encode(msgspec.structs.replace(event, program="nobody")))
        return record

    found, _ = decisions(rewritten(path, tmp_path / "changed", changed))
    first = next(decision for decision in found if not decision.same)
    assert [event.program for event in first.recorded if event.decision == "released"] == ["nobody"]
    assert "nobody" not in [event.program for event in first.replayed]


def test_what_a_server_lost_on_the_way_is_no_part_of_the_order_and_all_is_compared(tmp_path, capsys):
    run = Run(tmp_path / "recording", [AdmissionConsumer()])
    servers = [serve(run, name, 12_000) for name in (SERVER, OTHER)]
    for seed in range(4):
        for server in servers:
            anything(server, random.Random(seed), 60)
        # A message does not arrive; the server is asked for its state, and tells it.
        run.numbers[SERVER] += 1
        servers[0].submit("lost", f"lost{seed}", 700)
        servers[0].tell()
    run.close()
    found, notes = decisions(tmp_path / "recording")
    assert len(found) > 100 and all(decision.same for decision in found) and not notes
    assert main([str(tmp_path / "recording")], gates) == 0
    assert "0 different" in capsys.readouterr().out


def test_a_restart_of_control_starts_its_deciders_and_its_gates_anew(tmp_path):
    path = tmp_path / "recording"
    run = Run(path, (Guesses(), AdmissionConsumer()))
    server = serve(run, SERVER, 12_000)
    anything(server, random.Random(1), 100)
    run.close()
    new = Run(path, (Guesses(), AdmissionConsumer()), epoch=2)
    new.numbers = run.numbers
    new.listeners.append(server.hear)
    server.publish = lambda event: new.publish(SERVER, event)
    # Until its state is told, what it says is heard by no gate.
    server.submit("early", "e1", 500)
    server.restarted()
    anything(server, random.Random(2), 100)
    new.close()
    found, notes = decisions(path, lambda session: (Guesses(), AdmissionConsumer()))
    assert all(decision.same for decision in found) and not notes
    epochs = {record.epoch for record in read_recording(path) if isinstance(record.event, AdmissionWindow)}
    assert epochs == {1, 2}


def test_deciders_that_hear_each_other_decide_alike_and_others_do_not(tmp_path, capsys):
    path = recorded(tmp_path / "recording", consumers=(Guesses(), Echo()))
    found, notes = decisions(path, lambda session: (Guesses(), Echo()))
    assert len(found) > 20 and all(decision.same for decision in found) and not notes
    assert {decision.decider for decision in found} == {CONTROL}
    assert {type(event) for decision in found for event in decision.replayed} == {PausePredicted, ProgramEnded}
    assert main([str(path)], lambda session: (Guesses(2.0), Echo())) == 1
    assert main([str(path)], lambda session: (Guesses(),)) == 1
    capsys.readouterr()
    assert main([str(path)], none) == 1
    assert "replayed: nothing" in capsys.readouterr().out


def test_predictions_and_gates_are_replayed_unless_told_otherwise(tmp_path):
    path = recorded(tmp_path / "recording", consumers=(PauseConsumer(), AdmissionConsumer()))
    assert main([str(path)]) == 0
    for kind in (PausePredicted, AdmissionTicket, AdmissionWindow):
        assert sum(isinstance(record.event, kind) for record in read_recording(path)) > 20


def test_messages_missing_in_the_file_end_the_comparison_of_controls_deciders(tmp_path):
    path = recorded(tmp_path / "recording", consumers=(Guesses(),))
    beat = [record.seq for record in read_recording(path) if isinstance(record.event, Heartbeat)][4]
    cut = rewritten(path, tmp_path / "cut", lambda record: None if record.seq == beat else record)
    found, notes = decisions(cut, lambda session: (Guesses(),))
    assert all(decision.same for decision in found)
    own = [decision.seq for decision in found if decision.decider == CONTROL]
    assert own and max(own) < beat and "messages are missing in the file" in notes[0]


def test_a_recording_cut_short_anywhere_is_compared_up_to_there(tmp_path):
    path = recorded(tmp_path / "recording", steps=60, consumers=(Guesses(), Echo()))
    whole = path.read_bytes()
    for length in range(len(whole) - 1, len(whole) // 3, -97):
        path.write_bytes(whole[:length])
        found, notes = decisions(path, lambda session: (Guesses(), Echo()))
        assert all(decision.same for decision in found)
        assert all("cut short" in note for note in notes)


def test_for_a_server_without_a_gate_nothing_is_decided(tmp_path, capsys):
    run = Run(tmp_path / "recording", [AdmissionConsumer()])
    server = Server(SERVER, lambda event: run.publish(SERVER, event), None)
    server.tell()
    anything(server, random.Random(1), 100)
    run.tick(server.now_s)
    run.close()
    assert main([str(tmp_path / "recording")], gates) == 0
    assert not [record for record in read_recording(tmp_path / "recording") if type(record.event) is AdmissionTicket]
    found, _ = decisions(tmp_path / "recording")
    assert not found


@pytest.mark.parametrize("content", [b"", b"no recording", b"\x00\x00\x00\x05hello", None])
def test_what_is_no_recording_is_refused(tmp_path, capsys, content):
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    assert main([str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_a_recording_damaged_in_the_middle_is_refused(tmp_path, capsys):
    path = recorded(tmp_path / "recording")
    content = bytearray(path.read_bytes())
    end = 4 + int.from_bytes(content[:4], "big")
    content[end + 4] = 0xC1
    path.write_bytes(content)
    assert main([str(path)]) == 2
    assert "byte" in capsys.readouterr().err


def test_what_a_policy_that_is_not_known_here_decided_is_a_difference(tmp_path, caplog):
    path = recorded(tmp_path / "recording")

    def changed(record):
        if (gate := getattr(record.event, "gate", None)) is None:
            return record
        other = msgspec.structs.replace(gate, policy="another")
        return record._replace(payload=encode(msgspec.structs.replace(record.event, gate=other)))

    assert main([str(rewritten(path, tmp_path / "changed", changed))], gates) == 1
    assert "unknown admission policy 'another'" in caplog.text


def test_the_decisions_never_overwrite_the_recording(tmp_path):
    path = recorded(tmp_path / "recording", steps=20)
    before = path.read_bytes()
    with pytest.raises(SystemExit) as ended:
        main([str(path), "--decisions", str(tmp_path / "." / "recording")])
    assert ended.value.code == 2 and path.read_bytes() == before


def test_what_a_real_control_process_records_is_replayed(tmp_path):
    address, path = f"ipc://{tmp_path / 's'}", tmp_path / "recording"
    command = [sys.executable, "-m", "mars_sglang.control", "--address", address, "--record", str(path)]
    control = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _wait_for(Heartbeat, path, control)
        publisher = Publisher(address, "server")
        asked = GateSettings(policy="footprint", capacity_tokens=12_000)
        server = Server(publisher.source, publisher.publish, asked)
        with Subscriber(address, (AdmissionTicket, Heartbeat)) as subscriber:
            server.tell()
            chance, deadline = random.Random(3), time.monotonic() + 30
            while len(read := _so_far(path)) < 600 or server.answers < 20:
                assert time.monotonic() < deadline and control.poll() is None
                anything(server, chance, 10)
                subscriber.wait(0.05)
                for received in subscriber.receive():
                    server.hear(received.event)
            # What a closing sender cannot send in a moment is lost, its last word too.
            while max(record.event.source_seq for record in read if _is_of(record, publisher)) < publisher.sent:
                assert time.monotonic() < deadline
                time.sleep(0.05)
                read = _so_far(path)
        publisher.close()
        _wait_for(SourceStopped, path, control)
    finally:
        control.terminate()
        control.wait(20)
    assert {AdmissionTicket, AdmissionWindow, PausePredicted} <= {type(record.event) for record in read}
    assert main([str(path)]) == 0
    found, notes = decisions(path, lambda session: [PauseConsumer(), AdmissionConsumer()])
    assert len(found) > 100 and not notes
    assert {decision.decider for decision in found} == {Recording(path).session.source}


def _is_of(record, publisher):
    return record.event is not None and record.event.source == publisher.source


def _wait_for(kind, path, control):
    deadline = time.monotonic() + 30
    while not any(isinstance(record.event, kind) for record in _so_far(path)):
        assert time.monotonic() < deadline and control.poll() is None
        time.sleep(0.05)


def _so_far(path):
    try:
        return list(read_recording(path))
    except (OSError, RecordingError):
        return []
