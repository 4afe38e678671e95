"""Who sends, what of it is missing, who sends too much, and who is gone. Pure; times are real seconds."""

from collections import OrderedDict
from dataclasses import dataclass, field

#: Sources that are followed; beyond it the one heard of least lately goes.
MAX_SOURCES = 256
#: Events that one source may send in a second, and in a burst: ten times what a busy server sends.
RATE, BURST = 5_000.0, 20_000.0
#: New sources in a second, and in a burst: each tool call that is wrapped by a command is one.
NEW_RATE, NEW_BURST = 200.0, 1_000.0
#: A source is asked for its state at most this often, and not for ever: it may not listen.
ASK_EVERY_S, ASK_TIMES = 1.0, 5
#: A source that is asked whether it is there has this long to answer...
ANSWER_S = 1.2
#: ...and is asked when it was silent for so long, or when a process like it started.
SILENT_S = 30.0


@dataclass(slots=True)
class _Bucket:
    tokens: float
    rate: float
    burst: float
    filled_s: float

    def take(self, now_s: float) -> bool:
        self.tokens = min(self.burst, self.tokens + (now_s - self.filled_s) * self.rate)
        self.filled_s = now_s
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


@dataclass(slots=True)
class _Source:
    seq: int
    heard_s: float
    bucket: _Bucket
    asks: int = 0
    """Times that it will yet be asked for its state."""
    asked_s: float = float("-inf")
    tells: bool = False
    """Has told its state once, so it listens, and silence means something."""
    missed_since_part_0: bool = False
    doubted_s: float | None = None
    """When it was first asked whether it is still there."""


@dataclass(slots=True)
class Sources:
    """Every source heard of, by name."""

    gaps: int = 0
    """Times that numbers of a source were missing."""
    lost: int = 0
    """Events that were missing."""
    flooded: int = 0
    """Events dropped, for their source sent too many or there were too many new sources."""
    _known: OrderedDict[str, _Source] = field(default_factory=OrderedDict)
    _new: _Bucket = field(default_factory=lambda: _Bucket(NEW_BURST, NEW_RATE, NEW_BURST, 0.0))

    def __len__(self) -> int:
        return len(self._known)

    def accept(self, source: str, seq: int, now_s: float) -> bool:
        """Whether an event with this number of its source goes into the order. Counts what is missing before it."""
        known = self._known.get(source)
        if known is None:
            if not self._new.take(now_s):
                self.flooded += 1
                return False
            known = self._welcome(source, seq, now_s)
        else:
            self._known.move_to_end(source)
            known.heard_s = now_s
            known.doubted_s = None
            if seq > known.seq + 1:
                self._missing(known, seq - known.seq - 1)
            # A lower number is no order that a socket makes; it is a sender that counts wrongly.
            known.seq = max(known.seq, seq)
        if not known.bucket.take(now_s):
            self.flooded += 1
            known.asks = ASK_TIMES
            known.missed_since_part_0 = True
            return False
        return True

    def told(self, source: str, part: int, done: bool) -> None:
        """The source told a part of its state; it need not be asked again when all of them came."""
        known = self._known.get(source)
        if known is None:
            return
        known.tells = True
        if part == 0:
            known.missed_since_part_0 = False
        if done and not known.missed_since_part_0:
            known.asks = 0

    def stopped(self, source: str) -> None:
        """The source said that it ends."""
        self._known.pop(source, None)

    def tick(self, now_s: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Whom to ask for their state now, and who did not answer and counts as gone."""
        ask, gone = [], []
        for name, known in self._known.items():
            if known.tells and known.doubted_s is None and now_s - known.heard_s > SILENT_S:
                known.doubted_s = now_s
            if known.doubted_s is not None:
                if now_s - known.doubted_s > ANSWER_S:
                    gone.append(name)
                    continue
                known.asks = max(known.asks, 1)
            if known.asks and now_s - known.asked_s >= ASK_EVERY_S:
                known.asks -= 1
                known.asked_s = now_s
                ask.append(name)
        for name in gone:
            del self._known[name]
        return tuple(ask), tuple(gone)

    def _welcome(self, source: str, seq: int, now_s: float) -> _Source:
        kin = source.split(":")[:2]
        for name, other in self._known.items():
            # A process that was killed says no farewell, but the one started in its place comes.
            if other.tells and other.doubted_s is None and name.split(":")[:2] == kin:
                other.doubted_s = now_s
                other.asked_s = float("-inf")
        known = self._known[source] = _Source(seq, now_s, _Bucket(BURST, RATE, BURST, now_s))
        if seq > 1:
            # Heard of before, or its first messages were lost.
            known.asks = ASK_TIMES
        if len(self._known) > MAX_SOURCES:
            self._known.popitem(last=False)
        return known

    def _missing(self, known: _Source, count: int) -> None:
        self.gaps += 1
        self.lost += count
        known.asks = ASK_TIMES
        known.missed_since_part_0 = True
