"""The ordered stream in a file, to be replayed or looked at.

A file is a run of records, each a 32-bit big endian length and that many bytes of msgpack. A
map is a session: the control process started, or started again and went on in the same file.
An array is a message: epoch, sequence, sequence within its topic, ``at_s``, and the event's own
bytes. The last record may be cut short by a kill.
"""

import logging
import os
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from mars_sglang import __version__
from mars_sglang.stream.codec import MAX_EVENT_BYTES, Malformed, decode
from mars_sglang.stream.events import Event

logger = logging.getLogger(__name__)

FORMAT = "mars-sglang recording"
#: Counted up when a reader of the last version could not read a new one.
VERSION = 1
#: Written at once when this much waits; else at each flush.
BUFFER_BYTES = 1024 * 1024

_LENGTH = struct.Struct(">I")
_MAX_RECORD_BYTES = MAX_EVENT_BYTES + 1024


class RecordingError(ValueError):
    """A file that is no recording, or one of a newer format."""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a control process: the first record of its part of a recording."""

    format: str = FORMAT
    version: int = VERSION
    mars_sglang: str = __version__
    epoch: int = 0
    source: str = ""
    """Name of the control process: whose events are its own decisions."""
    speed: float = 1.0
    """Seconds of the clock in one real second."""
    settings: dict[str, str | int | float | bool | None] = {}


class Recorded(NamedTuple):
    """A message as it was published. The first four fields are those of its header."""

    epoch: int
    seq: int
    topic_seq: int
    at_s: float
    payload: bytes
    event: Event | None
    """None: of a kind that this version does not know."""


_encoder = msgspec.msgpack.Encoder()
_messages = msgspec.msgpack.Decoder(tuple[int, int, int, float, bytes])


class Recorder:
    """Writes a recording. A disk that fails ends the recording, never the stream."""

    def __init__(self, path: str | os.PathLike, session: Session):
        """Open the file, readable by its owner alone; what it holds already is kept.

        Raises:
            RecordingError: the file holds something else.
            OSError: it cannot be opened.
        """
        self.path = os.fspath(path)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            end = _end_of_whole_records(self.path)
            os.ftruncate(self._file, end)
            os.lseek(self._file, end, os.SEEK_SET)
        except BaseException:
            os.close(self._file)
            raise
        self._waiting: list[bytes] = []
        self._size = 0
        self._put(_encoder.encode(session))
        self.flush()

    @property
    def running(self) -> bool:
        """Whether what is given is still recorded."""
        return self._file is not None

    def record(self, epoch: int, seq: int, topic_seq: int, at_s: float, payload: bytes) -> None:
        """Add a message; it reaches the file at the next flush at the latest."""
        if self._file is None:
            return
        self._put(_encoder.encode((epoch, seq, topic_seq, at_s, payload)))
        if self._size > BUFFER_BYTES:
            self.flush()

    def _put(self, body: bytes) -> None:
        self._waiting += (_LENGTH.pack(len(body)), body)
        self._size += len(body) + _LENGTH.size

    def flush(self) -> None:
        """Write what waits."""
        if self._file is None or not self._waiting:
            return
        rest = memoryview(b"".join(self._waiting))
        self._waiting, self._size = [], 0
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            logger.error("recording to %s stops: %s; the stream goes on", self.path, error.strerror)
            self._end()

    def close(self) -> None:
        """Write what waits and close the file. A second call does nothing."""
        self.flush()
        self._end()

    def _end(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


class Recording:
    """A recording to read: iterate for its sessions and messages, in order."""

    def __init__(self, path: str | os.PathLike):
        """Check that the file begins as a recording does.

        Raises:
            RecordingError: it does not, or is of a newer format.
            OSError: it cannot be read.
        """
        self.path = os.fspath(path)
        self.truncated = False
        """Set at the end of an iteration: the last record was cut short."""
        self.session: Session = next(self._sessions_and_messages(), None)
        """The first one."""
        if self.session is None:
            raise RecordingError(f"{self.path} is empty, not a recording of mars-sglang")

    def __iter__(self) -> Iterator[Session | Recorded]:
        return self._sessions_and_messages()

    def _sessions_and_messages(self) -> Iterator[Session | Recorded]:
        first = True
        with open(self.path, "rb") as file:
            while head := file.read(_LENGTH.size):
                length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
                body = file.read(length) if 0 < length <= _MAX_RECORD_BYTES else b""
                if first and len(body) < length:
                    raise RecordingError(f"{self.path} is not a recording of mars-sglang")
                if len(head) < _LENGTH.size or len(body) < length:
                    self.truncated = True
                    return
                try:
                    record = _session(body, self.path) if first or body[0] & 0xF0 == 0x80 else _message(body)
                except (msgspec.DecodeError, IndexError) as error:
                    where = file.tell() - len(body)
                    raise RecordingError(f"{self.path} is not a recording of mars-sglang at byte {where}") from error
                first = False
                yield record
        self.truncated = False


def read_recording(path: str | os.PathLike) -> Iterator[Recorded]:
    """The messages of a recording, in order, of all its sessions; the epoch tells one from the next.

    Raises:
        RecordingError: no recording, or one of a newer format. At once, not at the first message.
        OSError: the file cannot be read.
    """
    recording = Recording(path)
    return (record for record in recording if isinstance(record, Recorded))


def _session(body: bytes, path: str) -> Session:
    said = msgspec.msgpack.decode(body)
    if not isinstance(said, Mapping) or said.get("format") != FORMAT:
        raise RecordingError(f"{path} is not a recording of mars-sglang")
    session = msgspec.convert(said, Session)
    if session.version > VERSION:
        raise RecordingError(
            f"{path} was recorded by mars-sglang {session.mars_sglang} in format {session.version}; "
            f"this version reads up to {VERSION}"
        )
    return session


def _message(body: bytes) -> Recorded:
    *place, payload = _messages.decode(body)
    try:
        event = decode(payload)
    except Malformed:
        event = None
    return Recorded(*place, payload, event)


def _end_of_whole_records(path: str) -> int:
    """Where to go on writing: behind the last record that is whole."""
    size = os.path.getsize(path)
    if size == 0:
        return 0
    Recording(path)
    end = 0
    with open(path, "rb") as file:
        while len(head := file.read(_LENGTH.size)) == _LENGTH.size:
            length = _LENGTH.unpack(head)[0]
            following = end + _LENGTH.size + length
            if length > _MAX_RECORD_BYTES:
                raise RecordingError(f"{path} is not a recording of mars-sglang at byte {end}")
            if following > size:
                break
            end = file.seek(following)
    return end
