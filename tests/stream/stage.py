"""The control process's side of the sockets, by hand: it loses what a test tells it to lose."""

from collections.abc import Callable

import zmq

from mars_sglang.control.sequencer import Ordered, Sequencer
from mars_sglang.stream.address import Address
from mars_sglang.stream.codec import HEADER, encode
from mars_sglang.stream.events import Event
from tests.control.running import eventually


class Stage:
    """Publishes events in order, and answers readers when it is told to."""

    def __init__(self, address: str, epoch: int = 1):
        self.address = Address.parse(address)
        self.order = Sequencer(epoch, "control:h:1:2")
        self.requests = 0
        self._context = zmq.Context()
        self._pub = self._context.socket(zmq.XPUB)
        self._router = self._context.socket(zmq.ROUTER)
        for socket, endpoint in ((self._pub, self.address.stream), (self._router, self.address.snapshot)):
            socket.linger = 0
            self.address.bind(socket, endpoint, None)

    def await_readers(self, subscriptions: int, meanwhile: Callable[[], object] = lambda: None) -> None:
        """A reader that connects again has to be polled ``meanwhile`` to say what it reads."""
        for _ in range(subscriptions):
            eventually(lambda: self._pub.poll(1) or (meanwhile() and False))
            self._pub.recv()

    def say(self, event: Event, lose: bool = False) -> Ordered:
        (message,) = self.order.order(event, encode(event), 1.0)
        if not lose:
            self._send(message)
        return message

    def beat(self, **fields) -> None:
        for message in self.order.tick(1.0, **fields):
            self._send(message)

    def _send(self, message: Ordered) -> None:
        kind, epoch, seq, topic_seq, at_s, payload, _ = message
        self._pub.send_multipart([kind, HEADER.pack(epoch, seq, topic_seq, at_s), payload])

    def send_raw(self, *frames: bytes) -> None:
        self._pub.send_multipart(frames)

    def take_request(self) -> list[bytes]:
        """The next request, unanswered."""
        eventually(lambda: self._router.poll(1))
        self.requests += 1
        return self._router.recv_multipart()

    def answer(self, request: list[bytes]) -> None:
        self._router.send_multipart([*request[:-1], encode(self.order.snapshot(1.0))])

    def close(self) -> None:
        self._pub.close(0)
        self._router.close(0)
        self._context.term()

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *_) -> None:
        self.close()
