"""Refusals on real sockets: a small application whose endpoints fail as SGLang's do, then SGLang's own server."""

import asyncio
import concurrent.futures
import contextlib
import http.client
import json
import socket
import sys
import threading
import time
import types
import urllib.parse
import urllib.request

import pytest

pytest.importorskip("sglang")

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mars_sglang.engine.refusals import (
    MAX_DEADLINE_MS,
    AdmissionRefused,
    DeadlineError,
    RefusalMiddleware,
    answer_refusals,
    deadline_s,
    refusable,
)
from tests.serving import emulated_server, free_port, tail

# -- deadlines ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "seconds"), [("1", 0.001), ("2500", 2.5), (" 30000 ", 30.0), ("86400000", 86400.0)])
def test_a_deadline_is_a_whole_number_of_milliseconds(value, seconds):
    assert deadline_s({"x-request-deadline-ms": value}) == seconds


def test_without_the_header_there_is_no_deadline():
    assert deadline_s({"x-other": "5"}) is None


@pytest.mark.parametrize("value", ["", "0", "-5", "+5", "2.5", "1e3", "1_000", "soon", "٣", "86400001", "9" * 5000])
def test_any_other_deadline_is_an_error_that_names_header_value_and_what_is_accepted(value):
    with pytest.raises(DeadlineError) as refused:
        deadline_s({"x-request-deadline-ms": value})
    message = str(refused.value)
    assert refused.value.status_code == 400 and refused.value.retry_after_s is None
    assert "x-request-deadline-ms" in message and repr(value)[:30] in message and str(MAX_DEADLINE_MS) in message
    assert len(message) < 200


def test_a_refusal_by_admission_is_429_or_503():
    with pytest.raises(ValueError, match="429, 503"):
        AdmissionRefused(500, 1.0, "no")


def test_without_http_the_caller_gets_the_exception():
    async def refused():
        async with refusable(None):
            raise AdmissionRefused(429, 1.0, "full")

    with pytest.raises(AdmissionRefused, match="full"):
        asyncio.run(refused())


# -- the middleware ------------------------------------------------------------------------------


class Endpoints:
    """Endpoints that hold each request until the test decides, and treat a refusal as SGLang's do."""

    def __init__(self):
        self.decisions: dict[str, asyncio.Future] = {}
        self.pieces: dict[str, asyncio.Event] = {}
        self.waiting: dict[str, threading.Event] = {}
        self.gone = threading.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    def expect(self, name: str) -> None:
        self.waiting[name] = threading.Event()

    def decide(self, name: str, refusal: Exception | None = None) -> None:
        """Once the request waits, let it in or refuse it."""
        assert self.waiting[name].wait(30), "the request never waited"
        future = self.decisions[name]
        done = (future.set_result, None) if refusal is None else (future.set_exception, refusal)
        self.loop.call_soon_threadsafe(*done)

    def next_piece(self, name: str) -> None:
        self.loop.call_soon_threadsafe(self.pieces[name].set)

    async def turn(self, request):
        """As ``generate_request``: waits at the gate, then yields what the engine says."""
        name = request.headers["x-name"]
        self.loop = asyncio.get_running_loop()
        self.decisions[name] = self.loop.create_future()
        self.pieces[name] = asyncio.Event()
        try:
            async with refusable(request):
                self.waiting[name].set()
                await self.decisions[name]
            await self.pieces[name].wait()
            yield "first"
            yield "second"
        except asyncio.CancelledError:
            self.gone.set()
            raise

    async def caught(self, request):
        """/generate: an error becomes an event of a stream that has begun."""

        async def pieces():
            try:
                async for piece in self.turn(request):
                    yield piece
            except ValueError as error:
                yield f"error: {error}"
            yield "[DONE]"

        return StreamingResponse(pieces(), media_type="text/event-stream")

    async def announced(self, request):
        """/v1/responses: two events before the turn is asked for."""

        async def pieces():
            yield "created"
            yield "in_progress"
            async for piece in self.turn(request):
                yield piece

        return StreamingResponse(pieces(), media_type="text/event-stream")

    async def whole(self, request):
        """Not streaming, with the error as a 400."""
        try:
            return JSONResponse([piece async for piece in self.turn(request)])
        except ValueError as error:
            return JSONResponse({"message": str(error)}, 400)

    async def raised(self, request):
        """Not streaming, with the error caught nowhere: Ollama's endpoints."""
        return JSONResponse([piece async for piece in self.turn(request)])

    async def fails(self, request):
        raise RuntimeError("not a refusal")

    async def chatter(self, request):
        """A stream that never asks for a turn."""

        async def pieces():
            for number in range(100):
                yield f"{number} "

        return StreamingResponse(pieces())

    async def plain(self, request):
        return JSONResponse({"asked": (await request.body()).decode()}, headers={"x-extra": "kept"})

    async def empty(self, request):
        return Response(status_code=204)

    def app(self, *middleware: Middleware) -> Starlette:
        streams = {"caught": self.caught, "announced": self.announced, "whole": self.whole, "raised": self.raised}
        others = {"fails": self.fails, "chatter": self.chatter, "plain": self.plain, "empty": self.empty}
        shaped = ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/generate", "/api/chat", "/invocations")
        routes = [Route(f"/{name}", endpoint, methods=["POST"]) for name, endpoint in (streams | others).items()]
        routes += [Route(path, self.raised, methods=["POST"]) for path in shaped]
        routes += [Route("/listed", self.chatter, methods=["GET"])]
        return Starlette(routes=routes, middleware=list(middleware))


class Served:
    """An application behind uvicorn in a thread."""

    def __init__(self, app, **config):
        self.port = free_port()
        self._server = uvicorn.Server(uvicorn.Config(app, port=self.port, log_level="critical", **config))
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self):
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        return self

    def __exit__(self, *exception):
        self._server.should_exit = True
        self._thread.join(30)

    def open(self, path: str, name: str = "", method: str = "POST") -> http.client.HTTPResponse:
        """The answer, as soon as its headers are there."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, b"{}" if method == "POST" else None, {"x-name": name})
        return connection.getresponse()


@pytest.fixture(scope="module")
def endpoints():
    return Endpoints()


@pytest.fixture(scope="module")
def served(endpoints):
    with Served(endpoints.app(Middleware(RefusalMiddleware))) as server:
        yield server


@pytest.fixture
def in_background():
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        yield pool.submit


ENDPOINTS = ["caught", "announced", "whole", "raised"]


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(("status", "retry_after_s", "header"), [(429, 0.2, "1"), (503, 2.0, "2"), (503, 6.01, "7")])
def test_a_refused_request_gets_the_status_and_when_to_come_again(
    served, endpoints, in_background, path, status, retry_after_s, header
):
    endpoints.expect(path)
    answer = in_background(served.open, f"/{path}", path)
    endpoints.decide(path, AdmissionRefused(status, retry_after_s, "too many wait"))
    response = answer.result(30)
    assert (response.status, response.headers["retry-after"]) == (status, header)
    assert response.headers["content-type"] == "application/json"
    assert json.load(response) == {"error": {"message": "too many wait"}}


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_deadline_that_cannot_be_read_is_400_without_a_time_to_come_again(served, endpoints, in_background, path):
    endpoints.expect(path)
    answer = in_background(served.open, f"/{path}", path)
    endpoints.decide(path, DeadlineError("no deadline"))
    response = answer.result(30)
    assert response.status == 400 and "retry-after" not in response.headers
    assert json.load(response) == {"error": {"message": "no deadline"}}


@pytest.mark.parametrize(
    ("path", "start"), [("caught", b"firstsecond[DONE]"), ("announced", b"createdin_progressfirstsecond")]
)
def test_a_stream_begins_when_its_turn_goes_in_and_not_with_its_first_piece(
    served, endpoints, in_background, path, start
):
    endpoints.expect(path)
    answer = in_background(served.open, f"/{path}", path)
    endpoints.decide(path)
    response = answer.result(30)  # the engine has not said anything yet
    assert response.status == 200
    endpoints.next_piece(path)
    assert response.read() == start


def test_an_error_that_is_no_refusal_is_answered_as_the_endpoint_does(served, endpoints, in_background):
    endpoints.expect("whole")
    answer = in_background(served.open, "/whole", "whole")
    endpoints.decide("whole", ValueError("too long"))
    response = answer.result(30)
    assert response.status == 400 and json.load(response) == {"message": "too long"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"object": "error", "message": "full", "type": "429", "param": None, "code": 429}),
        ("/invocations", {"object": "error", "message": "full", "type": "429", "param": None, "code": 429}),
        ("/v1/messages", {"type": "error", "error": {"type": "rate_limit_error", "message": "full"}}),
        ("/v1/responses", {"error": {"message": "full", "type": "Too Many Requests", "param": None, "code": 429}}),
        ("/api/chat", {"error": "full"}),
        ("/generate", {"error": {"message": "full"}}),
    ],
)
def test_the_body_has_the_shape_of_the_endpoints_own_errors(served, endpoints, in_background, path, body):
    endpoints.expect(path)
    answer = in_background(served.open, path, path)
    endpoints.decide(path, AdmissionRefused(429, 1.0, "full"))
    assert json.load(answer.result(30)) == body


def test_a_client_that_hangs_up_while_its_stream_is_held_ends_the_turn(served, endpoints):
    endpoints.expect("gone")
    endpoints.gone.clear()
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(b"POST /caught HTTP/1.1\r\nHost: x\r\nx-name: gone\r\nContent-Length: 2\r\n\r\n{}")
        assert endpoints.waiting["gone"].wait(30)
    assert endpoints.gone.wait(30)


def test_what_cannot_be_refused_gets_the_same_answer_as_without_the_middleware(served, endpoints):
    def seen(server, path, method):
        response = server.open(path, method=method)
        headers = {name.lower(): value for name, value in response.headers.items() if name.lower() != "date"}
        return response.status, headers, response.read()

    requests = [("/chatter", "POST"), ("/plain", "POST"), ("/empty", "POST"), ("/listed", "GET"), ("/listed", "HEAD")]
    requests += [("/fails", "POST"), ("/nowhere", "POST"), ("/plain", "GET")]
    with Served(endpoints.app()) as bare:
        for path, method in requests:
            assert seen(served, path, method) == seen(bare, path, method), (method, path)


def test_under_a_path_of_its_proxy_an_endpoint_keeps_its_shape(endpoints, in_background):
    with Served(endpoints.app(Middleware(RefusalMiddleware)), root_path="/proxied") as server:
        endpoints.expect("behind")
        answer = in_background(server.open, "/v1/messages", "behind")
        endpoints.decide("behind", AdmissionRefused(503, 1.0, "full"))
        assert json.load(answer.result(30))["error"]["type"] == "overloaded_error"


def test_the_middleware_is_the_innermost_and_is_added_once(monkeypatch):
    app = Starlette()
    app.add_middleware(Outer)
    monkeypatch.setitem(sys.modules, "sglang.srt.entrypoints.http_server", types.SimpleNamespace(app=app))
    answer_refusals()
    answer_refusals()
    assert [middleware.cls for middleware in app.user_middleware] == [Outer, RefusalMiddleware]


class Outer:
    def __init__(self, app):
        self.app = app


def test_an_engine_without_http_has_nothing_to_add_to(monkeypatch):
    monkeypatch.delitem(sys.modules, "sglang.srt.entrypoints.http_server", raising=False)
    answer_refusals()


# -- SGLang's own server -------------------------------------------------------------------------

MESSAGES = [{"role": "user", "content": "hello"}]
TURNS = {
    "/v1/chat/completions": {"model": "m", "messages": MESSAGES, "max_tokens": 4},
    "/v1/completions": {"model": "m", "prompt": "hello", "max_tokens": 4},
    "/v1/messages": {"model": "m", "messages": MESSAGES, "max_tokens": 4},
    "/v1/responses": {"model": "m", "input": "hello", "max_output_tokens": 4},
    "/generate": {"text": "hello", "sampling_params": {"max_new_tokens": 4}},
    "/invocations": {"model": "m", "messages": MESSAGES, "max_tokens": 4},
    "/api/chat": {"model": "m", "messages": MESSAGES},
    "/api/generate": {"model": "m", "prompt": "hello"},
}
FULL = ("--mars-admission", "window:1", "--mars-max-waiting", "1", "--mars-max-admission-wait", "2")
FULL += ("--enable-metrics", "--served-model-name", "m")


def post(url: str, path: str, body: dict, **headers: str) -> http.client.HTTPResponse:
    """The answer, as soon as its headers are there."""
    address = urllib.parse.urlparse(url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    headers = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", path, json.dumps(body), headers)
    return connection.getresponse()


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A server whose one place is taken for as long as the tests run."""
    with emulated_server(tmp_path_factory.mktemp("full"), *FULL) as server:
        deadline = time.monotonic() + 60
        while (control := server.get("/mars/state")["gate"]["control"]) != "answers":
            assert time.monotonic() < deadline, f"the control process is {control}:\n{tail(server.log)}"
            time.sleep(0.1)
        body = TURNS["/generate"] | {"stream": True, "sampling_params": {"max_new_tokens": 100_000, "ignore_eos": True}}
        holder = post(server.url, "/generate", body, x_session_id="holder")
        assert holder.status == 200 and holder.readline().startswith(b"data: ")
        yield server
        holder.close()


@contextlib.contextmanager
def one_waits(server):
    """The one turn that may wait, waits, for 60 s at most."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiter = pool.submit(post, server.url, "/generate", TURNS["/generate"], x_session_id="waiter")
        while server.get("/mars/state")["gate"]["turns_waiting"] < 1:
            assert not waiter.done(), waiter.result().read()
            time.sleep(0.02)
        yield waiter


@pytest.mark.server
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", TURNS)
def test_a_turn_that_waits_past_its_deadline_is_503_on_every_endpoint(full, path, stream):
    response = post(full.url, path, TURNS[path] | {"stream": stream}, x_session_id="late", x_request_deadline_ms="200")
    body = response.read().decode()
    assert response.status == 503, body
    assert int(response.headers["retry-after"]) >= 1 and "not admitted" in body


@pytest.mark.server
@pytest.mark.parametrize(
    ("path", "stream"),
    [("/v1/chat/completions", False), ("/v1/messages", True), ("/v1/responses", True), ("/generate", True)],
)
def test_one_turn_more_than_may_wait_is_429(full, path, stream):
    with one_waits(full) as waiter:
        response = post(full.url, path, TURNS[path] | {"stream": stream}, x_session_id="one-more")
        body = response.read().decode()
        assert response.status == 429, body
        assert int(response.headers["retry-after"]) >= 1
        # The server's own limit ends the wait of one that came without a deadline.
        assert waiter.result(60).status == 503


@pytest.mark.server
def test_health_metrics_and_listings_are_answered_while_turns_wait(full):
    with one_waits(full) as waiter:
        for path in ("/health", "/health_generate", "/v1/models", "/model_info", "/metrics"):
            with urllib.request.urlopen(full.url + path, timeout=30) as response:
                assert response.status == 200, path
        # No id: nothing to hold it for.
        assert full.post("/generate", TURNS["/generate"])["meta_info"]["completion_tokens"] == 4
        assert waiter.result(60).status == 503


@pytest.mark.server
@pytest.mark.parametrize("path", TURNS)
def test_a_stream_with_a_deadline_that_cannot_be_read_is_400(full, path):
    response = post(full.url, path, TURNS[path] | {"stream": True}, x_request_deadline_ms="soon")
    assert response.status == 400 and "x-request-deadline-ms" in response.read().decode()


@pytest.mark.server
def test_refusals_are_counted_beside_sglangs_own_metrics(full):
    post(full.url, "/generate", TURNS["/generate"], x_session_id="late", x_request_deadline_ms="1").read()
    with urllib.request.urlopen(full.url + "/metrics", timeout=30) as response:
        lines = dict(line.rsplit(" ", 1) for line in response.read().decode().splitlines() if line[0] != "#")
    assert float(lines['mars:refusals_total{status="503"}']) >= 1
    assert float(lines['sglang:http_responses_total{endpoint="/generate",method="POST",status_code="503"}']) >= 1
