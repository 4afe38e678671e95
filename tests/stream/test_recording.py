"""A recording gives back what was published, survives kills, and is never mistaken for another file."""

import os

import pytest

from mars_sglang import __version__
from mars_sglang.stream.codec import encode
from mars_sglang.stream.events import FirstToken, Heartbeat, TurnEnded
from mars_sglang.stream.recording import Recorded, Recorder, Recording, RecordingError, Session, read_recording


def record(path, epoch=7, count=3):
    recorder = Recorder(path, Session(epoch=epoch, source="control:h:1:2", settings={"policy": "mars"}))
    for seq in range(1, count + 1):
        recorder.record(epoch, seq, seq, seq / 4, encode(TurnEnded(program=f"p{seq}")))
    recorder.close()


def test_messages_come_back_as_they_were_given(tmp_path):
    record(tmp_path / "r")
    assert list(read_recording(tmp_path / "r")) == [
        Recorded(7, seq, seq, seq / 4, encode(TurnEnded(program=f"p{seq}")), TurnEnded(program=f"p{seq}"))
        for seq in (1, 2, 3)
    ]


def test_the_first_record_tells_version_and_settings(tmp_path):
    record(tmp_path / "r")
    session = Recording(tmp_path / "r").session
    assert (session.mars_sglang, session.epoch, session.settings) == (__version__, 7, {"policy": "mars"})


def test_only_the_owner_can_read_it(tmp_path):
    record(tmp_path / "r")
    assert (tmp_path / "r").stat().st_mode & 0o777 == 0o600


def test_what_is_not_flushed_waits_and_a_flush_writes_it(tmp_path):
    recorder = Recorder(tmp_path / "r", Session())
    recorder.record(1, 1, 1, 0.5, encode(FirstToken()))
    assert list(read_recording(tmp_path / "r")) == []
    recorder.flush()
    assert len(list(read_recording(tmp_path / "r"))) == 1
    recorder.close()


def test_a_last_record_that_was_cut_short_is_left_out(tmp_path):
    path = tmp_path / "r"
    record(path)
    whole = path.read_bytes()
    last = len(encode(TurnEnded(program="p3")))
    for cut in range(1, last):
        path.write_bytes(whole[:-cut])
        recording = Recording(path)
        assert [r.seq for r in recording if isinstance(r, Recorded)] == [1, 2], cut
        assert recording.truncated


def test_a_process_that_starts_again_goes_on_in_the_same_file_behind_the_last_whole_record(tmp_path):
    path = tmp_path / "r"
    record(path)
    os.truncate(path, path.stat().st_size - 3)
    record(path, epoch=8, count=1)
    recording = Recording(path)
    assert [(r.epoch, getattr(r, "seq", None)) for r in recording] == [(7, None), (7, 1), (7, 2), (8, None), (8, 1)]
    assert not recording.truncated


@pytest.mark.parametrize("content", [b"", b"some text", b"\0\0\0\1\x80", b"\0\0\0\5abc", b"\0\0\0\2\x81\xa1"])
def test_another_file_is_refused_and_never_written_to(tmp_path, content):
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match="not a recording"):
        read_recording(path)
    if content:
        with pytest.raises(RecordingError, match="not a recording"):
            Recorder(path, Session())
        assert path.read_bytes() == content


def test_a_recording_of_a_newer_format_is_refused(tmp_path):
    Recorder(tmp_path / "r", Session(version=2, mars_sglang="9.0")).close()
    with pytest.raises(RecordingError, match=r"mars-sglang 9\.0 in format 2"):
        read_recording(tmp_path / "r")


def test_an_event_of_an_unknown_kind_comes_without_its_content(tmp_path):
    recorder = Recorder(tmp_path / "r", Session())
    recorder.record(1, 1, 1, 0.5, b"\x81\xa4kind\xa5newer")
    recorder.record(1, 2, 1, 0.5, encode(Heartbeat()))
    recorder.close()
    assert [type(r.event).__name__ for r in read_recording(tmp_path / "r")] == ["NoneType", "Heartbeat"]


def test_a_full_disk_stops_the_recording_and_nothing_else(tmp_path, caplog):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    recorder = Recorder(tmp_path / "r", Session())
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, recorder._file)
    os.close(full)
    for _ in range(3):
        recorder.record(1, 1, 1, 0.5, encode(FirstToken()))
        recorder.flush()
    assert not recorder.running
    assert [r.levelname for r in caplog.records] == ["ERROR"]
    assert "No space left" in caplog.text
    recorder.close()
