"""Requests that are not served: how the gate's refusal reaches its client as a status, with ``Retry-After``.

A turn waits, and is refused, inside ``TokenizerManager.generate_request``. SGLang's endpoints make a plain 400 of what
is raised there, or an event in a stream that began with 200, or a 500. So the refusal is also left with the HTTP
request, and a middleware around the endpoints answers with it in place of what they made of it. For that the beginning
of a stream is held back until its turn went to the engine.
"""

import asyncio
import math
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import msgspec

DEADLINE_HEADER = "x-request-deadline-ms"
#: A day: who can wait for longer needs no deadline.
MAX_DEADLINE_MS = 86_400_000

#: Pieces of a stream held back while its turn waits. ``/v1/responses`` sends two before it asks for a turn; a stream
#: that sends more than this never will, and goes on as it is.
MAX_HELD_PIECES = 8

_HTTP_SERVER = "sglang.srt.entrypoints.http_server"
_SCOPE_KEY = "mars_reply"


class RequestRefused(ValueError):
    """A request that is not served.

    A ValueError, because SGLang's endpoints log any other exception with its trace, and overload is no bug. SGLang's
    native endpoints read ``status_code``.
    """

    status_code: int = 400
    retry_after_s: float | None = None


class DeadlineError(RequestRefused):
    """A deadline that cannot be read; the message names the header, its value and what is accepted."""


class AdmissionRefused(RequestRefused):
    """The turn may not start now, and its client should come again.

    Args:
        status_code: 503 where it waited for as long as it may, 429 where too many wait already.
        retry_after_s: when it is worth trying again, in real seconds.
    """

    def __init__(self, status_code: int, retry_after_s: float, message: str):
        if status_code not in (429, 503):
            raise ValueError(f"status_code is {status_code}; accepted: 429, 503")
        super().__init__(message)
        self.status_code = status_code
        self.retry_after_s = retry_after_s


def deadline_s(headers: Mapping[str, str]) -> float | None:
    """Real seconds that the client is ready to wait for its turn to start; None where it does not say.

    Raises:
        DeadlineError: the header is not a whole number of milliseconds from 1 to :data:`MAX_DEADLINE_MS`.
    """
    value = headers.get(DEADLINE_HEADER)
    if value is None:
        return None
    text = value.strip()
    # isdigit alone accepts other scripts' digits, and int() an underscore and a sign.
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= MAX_DEADLINE_MS):
        shown = repr(value) if len(value) <= 40 else repr(value[:37]) + "..."
        raise DeadlineError(
            f"{DEADLINE_HEADER} is {shown}; accepted: a whole number of milliseconds from 1 to {MAX_DEADLINE_MS}"
        )
    return int(text) / 1000


@asynccontextmanager
async def refusable(request: Any) -> AsyncIterator[None]:
    """Around the wait of a request's turn: a refusal inside is what its client is answered.

    Args:
        request: SGLang's HTTP request; None, or one without a scope, where there is no HTTP. The exception is all
            that its caller gets then.
    """
    reply: _Reply | None = getattr(request, "scope", {}).get(_SCOPE_KEY)
    if reply is None:
        yield
        return
    try:
        yield
    except RequestRefused as refused:
        reply.refused = refused
        raise
    finally:
        reply.settled = True
    await reply.release()


def answer_refusals() -> None:
    """Put the middleware into SGLang's HTTP server, before it serves; nothing in an ``Engine`` without HTTP."""
    http_server = sys.modules.get(_HTTP_SERVER)
    if http_server is None:
        return
    from starlette.middleware import Middleware

    app = http_server.app
    # A second server of the same process finds the first one's.
    if any(middleware.cls is RefusalMiddleware for middleware in app.user_middleware):
        return
    # Last is innermost: SGLang counts the status that the client gets, and adds its CORS headers to the refusal.
    app.user_middleware.append(Middleware(RefusalMiddleware))
    app.middleware_stack = None  # made at the first request; made again where an earlier server had none of ours


class RefusalMiddleware:
    """ASGI middleware around SGLang's endpoints. Requests that are not refused pass as they are."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        # Turns come by POST, and PUT on /generate; health, metrics and model listings are GETs.
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT"):
            await self.app(scope, receive, send)
            return
        reply = scope[_SCOPE_KEY] = _Reply(scope, send)
        try:
            await self.app(scope, receive, reply.send)
        except Exception:
            if not reply.replaceable():
                raise
        await reply.release()


class _Reply:
    """What an endpoint sends to its client, until it is clear that the client is not refused."""

    def __init__(self, scope: Mapping[str, Any], send):
        self.refused: RequestRefused | None = None
        self.settled = False
        """Whether the request's turn waited for as long as it had to, and how that ended."""
        self._scope = scope
        self._send = send
        self._held: deque[Mapping[str, Any]] = deque()
        self._begun = self._open = self._replaced = False
        # The turn's start and the endpoint's next piece may come from two tasks.
        self._order = asyncio.Lock()

    def replaceable(self) -> bool:
        """Whether the refusal is, or can still be, the answer."""
        return self.refused is not None and not self._begun

    async def send(self, message: Mapping[str, Any]) -> None:
        """A message of the endpoint."""
        if self._open:
            await self._send(message)
        elif not self._replaced:
            self._held.append(message)
            if self.settled or _whole(message) or len(self._held) > MAX_HELD_PIECES:
                await self.release()

    async def release(self) -> None:
        """Send what was held back, and from now on what comes; or the refusal in its place."""
        async with self._order:
            if self._replaced:
                return
            if self.replaceable():
                self._replaced = True
                self._held.clear()
                for message in _refusal(self._scope, self.refused):
                    await self._send(message)
            while self._held:
                self._begun = True
                await self._send(self._held.popleft())
            self._open = self._begun


def _whole(message: Mapping[str, Any]) -> bool:
    """Whether the message ends a reply, or begins one that is complete: a stream has no length."""
    if message["type"] == "http.response.start":
        return any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
    return not message.get("more_body", False)


def _refusal(scope: Mapping[str, Any], refused: RequestRefused) -> list[Mapping[str, Any]]:
    body = msgspec.json.encode(_error(scope["path"].removeprefix(scope.get("root_path", "")), refused))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refused.retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(refused.retry_after_s))).encode()))
    return [
        {"type": "http.response.start", "status": refused.status_code, "headers": headers},
        {"type": "http.response.body", "body": body, "more_body": False},
    ]


_ANTHROPIC_TYPES = {400: "invalid_request_error", 429: "rate_limit_error", 503: "overloaded_error"}


def _error(path: str, refused: RequestRefused) -> dict[str, Any]:
    """The refusal as the endpoint's own errors look."""
    status, message = refused.status_code, str(refused)
    if path.startswith("/v1/messages"):
        return {"type": "error", "error": {"type": _ANTHROPIC_TYPES[status], "message": message}}
    if path.startswith("/v1/responses"):
        phrase = HTTPStatus(status).phrase
        return {"error": {"message": message, "type": phrase, "param": None, "code": status}}
    if path.startswith("/api/"):  # Ollama's
        return {"error": message}
    if path.startswith("/v1/") or path == "/invocations":
        # A number for its type, as SGLang writes those of its own refusals.
        return {"object": "error", "message": message, "type": str(status), "param": None, "code": status}
    return {"error": {"message": message}}
