"""Gives every event its place in the one order, and lets the control plane's deciders answer. No sockets, no clock.

The same events at the same times, with the same epoch, give the same messages byte for byte,
those that control's own consumers decided included: so a recording can be replayed.
"""

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from mars_sglang.control.state import STALE_S, State
from mars_sglang.stream.codec import MAX_EVENT_BYTES, Received, encode, kind_of
from mars_sglang.stream.events import Event, Heartbeat
from mars_sglang.stream.snapshot import Snapshot

logger = logging.getLogger(__name__)

#: Events that one event or tick may lead to; a consumer that answers more is broken.
MAX_ANSWERS = 10_000


class Consumer(Protocol):
    """Part of the control plane: hears the order, and says things of its own.

    It is pure: no clock, no randomness, no sockets. One that raises is switched off.
    """

    def hear(self, received: Received, state: State) -> Iterable[Event]:
        """Take in an event that is no heartbeat and not its own, and say what follows from it.

        ``state`` has the event in it already, and is only to be read.
        """

    def tick(self, now_s: float, state: State) -> Iterable[Event]:
        """Say what follows from the time alone; called at each heartbeat."""


class Ordered(NamedTuple):
    """A message as it is published."""

    kind: bytes
    epoch: int
    seq: int
    topic_seq: int
    at_s: float
    payload: bytes
    event: Event


class Sequencer:
    """The order of one run of a control process."""

    def __init__(self, epoch: int, source: str, consumers: Sequence[Consumer] = (), *, stale_s: float = STALE_S):
        """
        Args:
            epoch: larger than that of any earlier run.
            source: the control process's own name, for what its consumers say.
            stale_s: as for :class:`mars_sglang.control.state.State`.
        """
        self.epoch = epoch
        self.source = source
        self.seq = 0
        self.topics: dict[str, int] = {}
        self.state = State(stale_s)
        self._consumers = list(consumers)
        self._own_seq = 0

    def order(self, event: Event, payload: bytes, at_s: float) -> list[Ordered]:
        """An event of a source, and after it what the consumers say to it."""
        first = self._place(event, payload, at_s)
        return self._with_answers([first], deque([(first, None)]))

    def tick(self, now_s: float, resend: tuple[str, ...] = (), counters: dict[str, int] | None = None) -> list[Ordered]:
        """A heartbeat, and after it what the consumers say to the time."""
        topics = dict(self.topics)
        beat = self._own(Heartbeat(epoch=self.epoch, topics=topics, resend=resend, counters=counters or {}), now_s)
        messages = [beat]
        open_ends = deque()
        for consumer in list(self._consumers):
            self._answer(consumer, "tick", now_s, now_s, messages, open_ends)
        return self._with_answers(messages, open_ends)

    def snapshot(self, now_s: float, counters: dict[str, int] | None = None) -> Snapshot:
        """What all messages so far come to."""
        return Snapshot(
            epoch=self.epoch,
            seq=self.seq,
            at_s=now_s,
            topics=dict(self.topics),
            counters=counters or {},
            **self.state.describe(now_s),
        )

    def _with_answers(self, messages: list[Ordered], open_ends: deque) -> list[Ordered]:
        while open_ends:
            message, speaker = open_ends.popleft()
            received = Received(message.epoch, message.seq, message.at_s, message.event)
            for consumer in list(self._consumers):
                if consumer is not speaker:
                    self._answer(consumer, "hear", received, message.at_s, messages, open_ends)
        return messages

    def _answer(self, consumer: Consumer, call: str, said, at_s: float, messages: list, open_ends: deque) -> None:
        try:
            for event in getattr(consumer, call)(said, self.state) or ():
                if len(messages) > MAX_ANSWERS:
                    raise RuntimeError(f"more than {MAX_ANSWERS} events follow from one")
                message = self._own(event, at_s)
                messages.append(message)
                open_ends.append((message, consumer))
        except Exception:
            logger.exception("%s failed and is switched off; the stream goes on", type(consumer).__name__)
            if consumer in self._consumers:
                self._consumers.remove(consumer)

    def _own(self, event: Event, at_s: float) -> Ordered:
        # The time is that of what it follows from, so that a replay says the same.
        event = msgspec.structs.replace(event, source=self.source, source_seq=self._own_seq + 1, time_s=at_s)
        payload = encode(event)
        if len(payload) > MAX_EVENT_BYTES:
            raise ValueError(f"{type(event).__name__} has {len(payload)} bytes; at most {MAX_EVENT_BYTES} are allowed")
        self._own_seq += 1
        return self._place(event, payload, at_s)

    def _place(self, event: Event, payload: bytes, at_s: float) -> Ordered:
        kind = kind_of(event)
        self.seq += 1
        topic_seq = self.topics[kind] = self.topics.get(kind, 0) + 1
        self.state.apply(event, at_s)
        return Ordered(kind.encode(), self.epoch, self.seq, topic_seq, at_s, payload, event)
