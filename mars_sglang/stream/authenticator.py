"""Lets the holders of known client keys in, and nobody else: ZAP (ZeroMQ RFC 27) over CURVE."""

import zmq
from zmq.utils import z85

from mars_sglang.stream.keys import ZAP_DOMAIN, Keys

#: Where libzmq asks, once per connection, for every socket with a security domain.
ENDPOINT = "inproc://zeromq.zap.01"


class Authenticator:
    """Answers libzmq's questions about new connections; bind it before the sockets that it guards."""

    def __init__(self, context: zmq.Context, keys: Keys):
        self._clients = keys.clients
        self.refused = 0
        self.socket = context.socket(zmq.REP)
        self.socket.linger = 0
        self.socket.bind(ENDPOINT)

    def answer(self) -> None:
        """Answer the questions that wait."""
        while self.socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            version, request, domain, _, _, mechanism, *credentials = self.socket.recv_multipart()
            known = mechanism == b"CURVE" and domain == ZAP_DOMAIN and len(credentials) == 1
            known = known and z85.encode(credentials[0]) in self._clients
            self.refused += not known
            code, text = (b"200", b"OK") if known else (b"400", b"unknown key")
            self.socket.send_multipart([version, request, code, text, b"", b""])

    def close(self) -> None:
        self.socket.close(0)
