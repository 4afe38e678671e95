"""Admission in a real server with a real control process, which is then killed, or stands still."""

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("sglang")

from tests.serving import emulated_server

pytestmark = pytest.mark.server

#: Turns that may wait.
MAX_WAITING = 8

#: Slow motion: a program is not taken for dormant within a test, and what takes real seconds is told from what takes
#: seconds of the emulated clock.
SPEED = 0.2

#: Real seconds in which what waits has to go on once nobody answers: the bound that ``docs/admission.md`` gives.
LET_GO_S = 2.0

HOLDER = "holder"


class AdmissionServer:
    """A server in whose window is one program, and which serves one turn at a time: the order of answers is that of
    passing the gate."""

    def __init__(self, server):
        self.url: str = server.url
        self.get = server.get
        self.model = server.get("/v1/models")["data"][0]["id"]
        self._threads = concurrent.futures.ThreadPoolExecutor(2 * MAX_WAITING)
        self.answered: list[str] = []
        """Programs in the order of their answers."""

    def gate(self) -> dict:
        return self.get("/mars/state?programs=0")["gate"]

    def control_pid(self) -> int:
        return self.get("/mars/state")["stream"]["processes"]["control"]["pid"]

    def ask(self, path: str, body: dict, headers: dict[str, str]) -> tuple[int, str, dict]:
        """Status, body and headers of the answer, whatever it is."""
        headers = {"content-type": "application/json", **headers}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, response.read().decode(), dict(response.headers)
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode(), dict(refused.headers)

    def turn(self, program: str | None, max_tokens: int = 2, headers: dict | None = None, **body) -> tuple:
        body = {"text": "Hello there.", "sampling_params": {"max_new_tokens": max_tokens, "ignore_eos": True}, **body}
        headers = {**(headers or {}), **({"x-session-id": program} if program else {})}
        answer = self.ask("/generate", body, headers)
        self.answered.append(program)
        return answer

    def start(self, do: Callable, *args, **kwargs) -> concurrent.futures.Future:
        return self._threads.submit(do, *args, **kwargs)

    def start_waiting(self, *programs: str, **body) -> list[concurrent.futures.Future]:
        """Turns of these programs that wait at the gate, asked in this order."""
        turns = []
        for program in programs:
            before = self.gate()["turns_waiting"]
            turns.append(self.start(self.turn, program, **body))
            until(lambda before=before: self.gate()["turns_waiting"] > before, f"{program} waits")
        return turns

    def end(self, program: str) -> None:
        request = urllib.request.Request(f"{self.url}/mars/programs/{program}", method="DELETE")
        urllib.request.urlopen(request, timeout=30).close()

    def empty(self) -> None:
        """End every program that has a place, once it can be asked for one again."""
        until(lambda: self.gate()["control"] == "answers", "the control process answers")
        for known in self.get("/mars/state")["programs"]:
            if known["admission"] is not None:
                self.end(known["program"])
        until(lambda: self.gate()["admitted"] == self.gate()["waiting"] == 0, "nobody has a place, and nobody waits")


def until(condition: Callable[[], object], what: str, deadline_s: float = 30.0) -> float:
    """Real seconds until it was so."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < deadline_s, f"not within {deadline_s} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.fixture(scope="module")
def started(tmp_path_factory) -> Iterator[AdmissionServer]:
    flags = ("--mars-admission", "window:1", "--mars-max-waiting", str(MAX_WAITING), "--max-running-requests", "1")
    with emulated_server(tmp_path_factory.mktemp("gate"), *flags, "--enable-metrics", speed=SPEED) as server:
        yield AdmissionServer(server)


@pytest.fixture
def server(started) -> AdmissionServer:
    """With the one place taken by a program that is inside a tool."""
    started.empty()
    assert started.turn(HOLDER)[0] == 200
    until(lambda: started.gate()["admitted"] == 1, "the holder has the place")
    started.answered.clear()
    return started


def statuses(turns: list[concurrent.futures.Future]) -> list[int]:
    return [turn.result(60)[0] for turn in turns]


# -- who waits


def test_a_first_turn_asks_and_a_continuation_does_not(server):
    gate = server.gate()
    assert gate["decisions"][0]["program"] == HOLDER and gate["decisions"][0]["decision"] == "admitted"
    assert server.turn(HOLDER)[0] == 200
    after = server.gate()
    assert after["decisions"] == gate["decisions"] and after["unasked"] == gate["unasked"]


CHAT = {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4}
ENDPOINTS = {
    "/generate": {"text": "Hello.", "sampling_params": {"max_new_tokens": 4}},
    "/v1/completions": {"prompt": "Hello.", "max_tokens": 4},
    "/v1/chat/completions": CHAT,
    "/v1/messages": CHAT,
    "/v1/responses": {"input": "Hello.", "max_output_tokens": 4},
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_second_program_waits_on_every_endpoint_until_the_first_is_over(server, path, stream):
    body = {"model": server.model, "stream": stream, **ENDPOINTS[path]}
    turn = server.start(server.ask, path, body, {"x-session-id": "second"})
    until(lambda: server.gate()["turns_waiting"] == 1, "it waits")
    time.sleep(0.3)
    assert not turn.done()
    server.end(HOLDER)
    status, text, _ = turn.result(60)
    assert status == 200 and text.startswith(("data:", "event:")) is stream
    assert [made["program"] for made in server.gate()["decisions"][:2]] == ["second", HOLDER]


def test_the_last_turn_of_a_program_makes_room_and_those_that_wait_go_in_their_order(server):
    # Names of no other test: a program that came earlier goes first.
    turns = server.start_waiting("q1", "q2", "q3", is_last_step=True)
    assert server.turn(HOLDER, is_last_step=True)[0] == 200
    assert statuses(turns) == [200] * 3
    assert server.answered == [HOLDER, "q1", "q2", "q3"]
    until(lambda: server.gate()["admitted"] == 0, "all places are free")


def test_what_is_no_turn_never_waits(server):
    turns = server.start_waiting("waits")
    for path in ("/health", "/metrics", "/v1/models", "/model_info", "/server_info", "/mars/state"):
        with urllib.request.urlopen(server.url + path, timeout=10) as response:
            assert response.status == 200
    assert not turns[0].done()
    server.end(HOLDER)
    assert statuses(turns) == [200]


def test_a_request_without_an_id_passes_and_its_load_counts(server):
    turns = server.start_waiting("waits")
    anonymous = server.start(server.turn, None, max_tokens=40)
    until(lambda: server.gate()["anonymous_tokens"] > 0, "its load is seen")
    assert statuses([anonymous]) == [200] and not turns[0].done()
    until(lambda: server.gate()["anonymous_tokens"] == 0, "its load is gone")
    server.end(HOLDER)
    assert statuses(turns) == [200]


# -- who gives up


def test_a_client_that_hangs_up_while_it_waits_is_forgotten(server):
    """A raw socket, because the connection has to break in the middle of a held request."""
    address = urllib.parse.urlparse(server.url)
    data = json.dumps({"model": "m", "stream": True, **CHAT}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nx-session-id: gone\r\nContent-Length: {len(data)}\r\n"
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + data)
        until(lambda: server.gate()["turns_waiting"] == 1, "it waits")
    until(lambda: server.gate()["turns_waiting"] == 0, "it is noticed")
    turns = server.start_waiting("later")
    server.end(HOLDER)
    assert statuses(turns) == [200]
    assert "gone" not in [made["program"] for made in server.gate()["decisions"][:3]]


def test_an_abort_reaches_a_turn_that_waits(server):
    aborted, other = server.start_waiting("aborted", rid="abort-me") + server.start_waiting("other")
    assert server.ask("/abort_request", {"rid": "abort-me"}, {})[0] == 200
    status, text, _ = aborted.result(60)
    assert status == 400 and "aborted while it waited" in text
    assert not other.done() and server.gate()["turns_waiting"] == 1
    server.end(HOLDER)
    assert statuses([other]) == [200]


def test_a_deadline_is_kept_in_real_seconds_and_a_full_queue_is_told_at_once(server):
    began = time.monotonic()
    status, _, headers = server.turn("hasty", headers={"x-request-deadline-ms": "500"})
    waited_s = time.monotonic() - began
    assert status == 503 and int(headers["retry-after"]) >= 1
    assert 0.5 <= waited_s < 0.5 / SPEED, "not of the emulated clock"
    turns = server.start_waiting(*(f"queued-{i}" for i in range(MAX_WAITING)), is_last_step=True)
    status, _, headers = server.turn("one-too-many")
    assert status == 429 and int(headers["retry-after"]) >= 1
    server.end(HOLDER)
    assert statuses(turns) == [200] * MAX_WAITING


# -- nobody answers


def test_when_the_control_process_is_killed_what_waits_goes_on_in_order_and_the_next_one_knows_who_is_inside(server):
    waiting = [f"w{i}" for i in range(6)]
    turns = server.start_waiting(*waiting)
    killed, before = server.control_pid(), server.gate()
    os.kill(killed, signal.SIGKILL)
    took_s = until(lambda: server.gate()["turns_waiting"] == 0, "all are let go")
    print(f"{len(turns)} turns were let go {took_s:.2f} s after the kill")
    assert took_s < LET_GO_S
    assert statuses(turns) == [200] * 6 and server.answered == waiting
    assert sum(server.gate()["let_go"].values()) == sum(before["let_go"].values()) + 6
    took_s += until(lambda: server.control_pid() != killed, "there is another one")
    until(lambda: server.gate()["control"] == "answers" and server.gate()["admitted"] == 7, "its table is whole")
    assert server.turn("w3")[0] == 200, "a continuation"
    turns = server.start_waiting("next")
    for program in (HOLDER, *waiting[:-1]):
        server.end(program)
    time.sleep(0.3)
    assert not turns[0].done(), "one of those that were let go is still inside"
    server.end(waiting[-1])
    assert statuses(turns) == [200]


def test_killed_again_and_again_under_load_it_costs_no_request(server):
    server.end(HOLDER)

    def agent(name: str) -> list[int]:
        return [server.turn(f"{name}-{i}", is_last_step=True)[0] for i in range(6)]

    agents = [server.start(agent, name) for name in "abcdef"]
    for _ in range(2):
        killed = server.control_pid()
        os.kill(killed, signal.SIGKILL)
        until(lambda killed=killed: server.control_pid() != killed, "there is another one")
        time.sleep(1.0)
    assert [status for told in agents for status in told.result(120)] == [200] * 36


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_while_the_control_process_hangs_no_turn_waits_for_longer_than_two_seconds(server):
    turns = server.start_waiting("before")
    with stopped(server.control_pid()):
        turns.append(server.start(server.turn, "asked-in-vain"))
        until(lambda: server.gate()["turns_waiting"] == 2, "both wait")
        took_s = until(lambda: server.gate()["turns_waiting"] == 0, "both are let go")
        print(f"let go {took_s:.2f} s after the last one asked")
        assert took_s < LET_GO_S
        until(lambda: server.gate()["control"] == "away", "its silence is noticed")
        unasked = server.gate()["unasked"]
        assert server.turn("passes")[0] == 200
        assert server.gate()["unasked"] == unasked + 1
        assert statuses(turns) == [200] * 2
    until(lambda: server.gate()["control"] == "answers", "it is asked again")
    until(lambda: server.gate()["admitted"] == 4, "it learned who is inside")
    turns = server.start_waiting("after")
    for program in (HOLDER, "before", "asked-in-vain", "passes"):
        assert not turns[0].done()
        server.end(program)
    assert statuses(turns) == [200]
