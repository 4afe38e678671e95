"""What a client sends: a proxy that passes requests on as they are and keeps them."""

import http.client
import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it was on the wire, and the status of its answer."""

    path: str
    headers: dict[str, str]
    """With lower-case names."""
    body: dict
    status: int


class Wire:
    """Listens on a free port of this host while the ``with`` block lasts; :attr:`url` stands for ``upstream``."""

    def __init__(self, upstream: str) -> None:
        wire = self
        self.sent: list[Sent] = []
        """In the order of their answers."""

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                connection = http.client.HTTPConnection(urlsplit(upstream).netloc, timeout=300)
                try:
                    connection.request("POST", self.path, body, dict(self.headers.items()))
                    response = connection.getresponse()
                    answer = response.read()
                finally:
                    connection.close()
                headers = {name.lower(): value for name, value in self.headers.items()}
                wire.sent.append(Sent(self.path, headers, json.loads(body), response.status))
                self.send_response(response.status)
                self.send_header("content-type", response.headers.get("content-type", "application/json"))
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args) -> None:
                """Keeps nothing on standard error."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Wire":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self._server.shutdown()
        self._server.server_close()
