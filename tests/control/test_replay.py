"""Replay: the same recording gives the same decisions, and a different one is told apart."""

import asyncio
import json
import random
import subprocess
import sys
import time

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mars_sglang import clock
from mars_sglang.control.pauses import PauseConsumer
from mars_sglang.control.replay import Replay, main
from mars_sglang.engine.admission_gate import AdmissionGate, TurnAborted
from mars_sglang.engine.identity import Identity
from mars_sglang.stream.codec import encode
from mars_sglang.stream.events import (
    AdmissionTicket,
    AdmissionWindow,
    FirstToken,
    Heartbeat,
    PausePredicted,
    ProgramEnded,
    SourceStopped,
    TurnEnded,
    TurnSubmitted,
)
from mars_sglang.stream.publisher import Publisher
from mars_sglang.stream.recording import Recording, RecordingError, read_recording
from tests.stream.recorded_run import CONTROL, Run, Server, anything, rewritten

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


def recorded(path, seed=0, steps=300, consumers=(), capacity=12_000):
    run = Run(path, consumers)
    server = Server(lambda event: run.publish(SERVER, event), capacity)
    for _ in range(10):
        anything(server, random.Random(seed), steps // 10)
        run.tick(server.now_s)
        seed += 1
    run.publish(SERVER, SourceStopped(time_s=server.now_s))
    run.close()
    return path


def decisions(path, consumers=none):
    replay = Replay(Recording(path), consumers)
    return list(replay), replay.notes


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), capacity=st.sampled_from([3_000, 12_000, 60_000]))
def test_a_gate_driven_at_random_decides_alike_when_replayed(tmp_path_factory, seed, capacity):
    path = recorded(tmp_path_factory.mktemp("run") / "recording", seed, 200, capacity=capacity)
    found, notes = decisions(path)
    assert all(decision.same for decision in found) and not notes
    said = [event for record in read_recording(path) if (event := record.event) and event.source == SERVER]
    of_the_gate = [event for event in said if isinstance(event, AdmissionTicket | AdmissionWindow)]
    assert sum(len(decision.replayed) for decision in found) == len(of_the_gate) > 0


def test_two_replays_write_the_same_bytes_and_the_summary_says_that_all_is_the_same(tmp_path, capsys):
    path = recorded(tmp_path / "recording", consumers=(Guesses(), Echo()))
    outputs = [tmp_path / "one", tmp_path / "two"]
    for output in outputs:
        assert main([str(path), "--decisions", str(output)], lambda session: (Guesses(), Echo())) == 0
    one, two = (output.read_bytes() for output in outputs)
    assert one == two and one
    kinds = {json.loads(line)["kind"] for line in one.splitlines()}
    assert kinds == {"admission_ticket", "admission_window", "pause_predicted", "program_ended"}
    assert "0 different" in capsys.readouterr().out


def test_the_gate_on_an_event_loop_decides_alike_when_replayed(tmp_path):
    run = Run(tmp_path / "recording")
    server = Server(lambda event: run.publish(SERVER, event), 6_000)

    def decided(now_s, decision):
        server.said.decided(server.gate, decision, now_s)

    gate = AdmissionGate(server.gate, decided)

    async def one_turn(program, name, tokens, seconds):
        server.now_s = clock.now()
        # As engine/server_turns.py: nothing is awaited between what is said and what the gate is told.
        server.said.submitted(Identity(program), name, tokens, 0, server.now_s)
        meta = {}
        try:
            await gate.enter(program, name, tokens, None, server.now_s)
            await asyncio.sleep(seconds)
            meta = {"prompt_tokens": tokens, "completion_tokens": 50}
        except TurnAborted:
            pass
        finally:
            now_s = clock.now()
            server.said.ended(program, name, now_s, meta, "stop" if meta else "abort", (), False)
            gate.leave(program, name, tokens + 50 if meta else None, False, now_s)

    async def everything():
        chance = random.Random(7)
        turns = []
        for number in range(60):
            program = f"p{number % 7}" if number % 9 else None
            turns.append(asyncio.create_task(one_turn(program, f"t{number}", 600 + number, chance.random() / 50)))
            await asyncio.sleep(chance.random() / 100)
            if number % 10 == 0 and gate._held:
                gate.abort(next(iter(gate._held)))
        while not all(turn.done() for turn in turns):
            await asyncio.sleep(0.3)
            gate.abort(None)

    asyncio.run(everything())
    run.close()
    found, notes = decisions(tmp_path / "recording")
    assert len(found) > 60 and all(decision.same for decision in found) and not notes


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

    assert main([str(rewritten(path, tmp_path / "changed", changed))], none) == 1
    said = capsys.readouterr().out
    assert "first difference: message" in said and "  recorded: {" in said and "  replayed: {" in said


def test_the_gate_giving_up_a_place_that_it_did_not_have_is_a_difference(tmp_path):
    path = recorded(tmp_path / "recording")

    def changed(record):
        event = record.event
        if isinstance(event, AdmissionTicket) and event.decision == "released":
            return record._replace(payload=encode(msgspec.structs.replace(event, program="nobody")))
        return record

    found, _ = decisions(rewritten(path, tmp_path / "changed", changed))
    first = next(decision for decision in found if not decision.same)
    assert first.recorded[0].decision == "released" and first.replayed == ()


def test_after_a_loss_nothing_of_that_server_is_compared_and_all_before_is(tmp_path, capsys):
    run = Run(tmp_path / "recording")
    servers = {name: Server(lambda event, name=name: run.publish(name, event), 12_000) for name in (SERVER, OTHER)}
    for server in servers.values():
        anything(server, random.Random(1), 60)
    run.flush()
    before, _ = decisions(tmp_path / "recording")
    run.lose(SERVER)
    for server in servers.values():
        anything(server, random.Random(2), 60)
    run.close()
    found, notes = decisions(tmp_path / "recording")
    assert all(decision.same for decision in found)
    of = {name: sum(decision.decider == name for decision in found) for name in servers}
    was = {name: sum(decision.decider == name for decision in before) for name in servers}
    assert of[SERVER] == was[SERVER] > 0 and of[OTHER] > was[OTHER]
    assert len(notes) == 1 and SERVER in notes[0] and "1 of its events are lost" in notes[0]
    assert main([str(tmp_path / "recording")], none) == 0
    assert notes[0] in capsys.readouterr().out


def test_a_server_that_ran_before_the_recording_began_is_not_compared(tmp_path):
    run = Run(tmp_path / "recording")
    run.numbers[SERVER] = 41
    anything(Server(lambda event: run.publish(SERVER, event), 12_000), random.Random(1), 60)
    run.close()
    found, notes = decisions(tmp_path / "recording")
    assert not found and "ran before the recording began" in notes[0]


def test_a_restart_of_control_starts_its_deciders_anew_and_no_gate(tmp_path):
    path = tmp_path / "recording"
    first = Run(path, (Guesses(),))
    server = Server(lambda event: run.publish(SERVER, event), 12_000)
    run = first
    anything(server, random.Random(1), 100)
    run.close()
    run = Run(path, (Guesses(),), epoch=2)
    run.numbers = first.numbers
    anything(server, random.Random(2), 100)
    run.close()
    found, notes = decisions(path, lambda session: (Guesses(),))
    assert all(decision.same for decision in found) and not notes
    assert {decision.decider for decision in found} == {SERVER, CONTROL}
    epochs = {record.epoch for record in read_recording(path) if isinstance(record.event, AdmissionWindow)}
    assert epochs == {1, 2}


def test_controls_own_deciders_decide_alike_and_others_do_not(tmp_path, capsys):
    path = recorded(tmp_path / "recording", consumers=(Guesses(), Echo()))
    found, notes = decisions(path, lambda session: (Guesses(), Echo()))
    own = [decision for decision in found if decision.decider == CONTROL]
    assert len(own) > 20 and all(decision.same for decision in found) and not notes
    assert {type(event) for decision in own for event in decision.replayed} == {PausePredicted, ProgramEnded}
    assert main([str(path)], lambda session: (Guesses(2.0), Echo())) == 1
    assert main([str(path)], lambda session: (Guesses(),)) == 1
    capsys.readouterr()
    assert main([str(path)], none) == 1
    assert "replayed: nothing" in capsys.readouterr().out


def test_predictions_are_replayed_unless_told_otherwise(tmp_path):
    path = recorded(tmp_path / "recording", consumers=(PauseConsumer(),))
    assert main([str(path)]) == 0
    assert sum(isinstance(record.event, PausePredicted) for record in read_recording(path)) > 20


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


def test_a_server_without_a_gate_decides_nothing(tmp_path, capsys):
    path = recorded(tmp_path / "recording")
    ungated = rewritten(
        path,
        tmp_path / "ungated",
        lambda record: (
            record._replace(payload=encode(FirstToken(source=SERVER, source_seq=record.event.source_seq)))
            if isinstance(record.event, AdmissionTicket | AdmissionWindow)
            else record
        ),
    )
    assert main([str(ungated)], none) == 0
    assert "0 decisions compared" in capsys.readouterr().out


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


def test_a_policy_that_is_not_known_here_is_bad_input(tmp_path):
    run = Run(tmp_path / "recording")
    run.publish(SERVER, AdmissionWindow(time_s=1.0, policy="another", capacity_tokens=10))
    run.close()
    with pytest.raises(RecordingError, match="unknown admission policy 'another'"):
        decisions(tmp_path / "recording")
    assert main([str(tmp_path / "recording")]) == 2


def test_the_decisions_never_overwrite_the_recording(tmp_path):
    path = recorded(tmp_path / "recording", steps=20)
    before = path.read_bytes()
    with pytest.raises(SystemExit) as ended:
        main([str(path), "--decisions", str(tmp_path / "." / "recording")])
    assert ended.value.code == 2 and path.read_bytes() == before


def test_what_a_real_control_process_records_is_replayed(tmp_path):
    folder, path = tmp_path / "s", tmp_path / "recording"
    command = [sys.executable, "-m", "mars_sglang.control", "--address", f"ipc://{folder}", "--record", str(path)]
    control = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        _wait_for(Heartbeat, path, control)
        publisher = Publisher(f"ipc://{folder}", "server")
        anything(Server(publisher.publish, 12_000), random.Random(3), 300)
        publisher.close()
        _wait_for(SourceStopped, path, control)
    finally:
        control.terminate()
        control.wait(20)
    assert main([str(path)]) == 0
    found, notes = decisions(path, lambda session: [PauseConsumer()])
    assert len(found) > 200 and not notes
    assert {decision.decider for decision in found} == {publisher.source, Recording(path).session.source}


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
