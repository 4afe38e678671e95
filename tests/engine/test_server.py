"""The policy and the gate in the real server, on a pool small enough to be short of memory."""

import concurrent.futures
import json
import os
import socket
import threading
import time
import urllib.error
import urllib.parse

import pytest

sglang = pytest.importorskip("sglang")

from mars_sglang.emulation.words import WORDS  # noqa: E402
from tests.serving import emulated_server  # noqa: E402

pytestmark = pytest.mark.server

POOL_TOKENS = 8000
SMALL_POOL = ("--max-total-tokens", str(POOL_TOKENS), "--chunked-prefill-size", "512")


def words(count: int, seed: int) -> str:
    """About ``count`` tokens that no other seed begins with."""
    return " ".join(WORDS[(seed * 7919 + i * (seed + 13)) % len(WORDS)] for i in range(count))


@pytest.fixture(scope="module")
def mars(tmp_path_factory):
    with emulated_server(tmp_path_factory.mktemp("mars"), "--scheduler-policy", "mars", *SMALL_POOL) as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_left_for_the_next_test(request):
    yield
    if "mars" in request.fixturenames:
        request.getfixturevalue("mars").flush()


class Agent:
    """Chat turns of one program, each extending the last, as an unmodified agent sends them."""

    def __init__(self, server, program: str, prompt_tokens: int, seed: int, header: bool = False):
        self.server, self.program, self.header = server, program, header
        self.messages = [{"role": "user", "content": words(prompt_tokens, seed)}]
        self.usage: list[dict] = []

    def turn(self, max_tokens: int = 16, **body) -> dict:
        headers = {"x-litellm-session-id": self.program} if self.header else {}
        body |= {} if self.header else {"program_id": self.program}
        answer = self.server.post(
            "/v1/chat/completions",
            {"model": "m", "messages": self.messages, "max_tokens": max_tokens, "ignore_eos": True, **body},
            headers,
        )
        self.usage.append(answer["usage"])
        self.messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
        self.messages.append({"role": "user", "content": words(40, len(self.messages) + 1000)})
        return answer["usage"]

    def cached(self) -> int:
        """Cached tokens of the last turn."""
        return self.usage[-1]["prompt_tokens_details"]["cached_tokens"]


def test_the_code_under_test_is_the_patched_one_where_that_was_asked_for():
    folder = os.environ.get("MARS_SGLANG_TEST_PATCHED")
    assert (sglang.__file__.startswith(folder)) if folder else True
    from sglang.srt.managers.schedule_policy import PrefillAdder

    assert hasattr(PrefillAdder, "may_pass") is bool(folder)


@pytest.mark.parametrize("header", [False, True], ids=["body", "header"])
def test_a_program_is_recognised_and_its_continuation_is_warm(mars, header):
    before = mars.state()["mars"].get("turns", 0)
    agent = Agent(mars, f"known-{header}", 600, seed=1, header=header)
    first = agent.turn()
    agent.turn()
    assert agent.cached() >= first["total_tokens"] - 8
    state = mars.state()["mars"]
    assert state["turns"] == before + 2
    assert state["turn_policy"] == "mars" and state["retained_programs"] >= 1


def test_kv_of_a_program_survives_its_tool_call_under_pressure_from_others(mars):
    agent = Agent(mars, "keeper", 2500, seed=2)
    first = agent.turn()
    for seed in range(10, 15):  # 12,500 tokens of anonymous traffic through a pool of 8,000
        mars.chat(words(2500, seed))
    agent.turn()
    assert agent.cached() >= first["total_tokens"] - 8


def test_contradictory_and_unusable_ids_are_400_and_name_the_ids(mars):
    with pytest.raises(urllib.error.HTTPError) as refused:
        mars.chat("hi", program_id="a", headers={"x-session-id": "b"})
    assert refused.value.code == 400
    message = json.load(refused.value)["message"]
    assert "program_id = 'a'" in message and "x-session-id = 'b'" in message
    with pytest.raises(urllib.error.HTTPError) as refused:
        mars.chat("hi", program_id="x" * 300)
    assert refused.value.code == 400


def test_every_endpoint_knows_its_program(mars):
    before = mars.state()["mars"].get("turns", 0)
    body = {"text": words(50, 3), "sampling_params": {"max_new_tokens": 4}}
    mars.post("/generate", body | {"session_id": "g"})
    mars.post("/generate", body, {"x-session-id": "h"})
    mars.post("/v1/completions", {"model": "m", "prompt": words(50, 4), "max_tokens": 4, "job_id": "c"})
    batch = {"text": [words(50, 5), words(50, 6)], "sampling_params": {"max_new_tokens": 4}, "session_id": "batch"}
    assert len(mars.post("/generate", batch)) == 2
    assert mars.state()["mars"]["turns"] == before + 5


def test_a_program_that_does_not_fit_waits_until_there_is_room(mars):
    """Two programs of over half the pool each: the second starts when the first has ended."""
    order = []

    def run(name: str, seed: int, **body):
        agent = Agent(mars, name, 4500, seed)
        agent.turn(max_tokens=60, **body)
        order.append((name, time.monotonic()))

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(run, "one", 20, is_last_step=True)
        time.sleep(0.3)
        assert mars.chat("no id, so no gate")["usage"]["completion_tokens"] == 8
        second = pool.submit(run, "two", 21)
        first.result(60), second.result(60)
    assert [name for name, _ in order] == ["one", "two"]


def test_a_client_that_hangs_up_while_it_waits_holds_nobody_back(mars):
    """Raw sockets, because the connection has to break in the middle of a held request."""
    address = urllib.parse.urlparse(mars.url)
    blocker = threading.Thread(target=lambda: Agent(mars, "blocker", 4500, 30).turn(max_tokens=150))
    blocker.start()
    time.sleep(0.3)
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": words(4500, 31)}],
        "max_tokens": 8,
        "stream": True,
        "program_id": "gone",
    }
    data = json.dumps(body).encode()
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
        head += "Content-Type: application/json\r\n\r\n"
        connection.sendall(head.encode() + data)
        time.sleep(0.5)
    blocker.join(60)
    later = Agent(mars, "later", 4500, 32)
    later.turn()
    assert later.usage[-1]["completion_tokens"] == 16


def test_many_programs_at_once_all_finish_and_every_page_is_accounted_for(mars):
    """Twelve programs of four turns through a pool for three; SGLang's checkers are on."""

    def run(i: int) -> Agent:
        agent = Agent(mars, f"many-{i}", 900 + 100 * (i % 4), seed=40 + i)
        for _ in range(4):
            agent.turn(max_tokens=24)
        return agent

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        agents = list(pool.map(run, range(12)))
    assert all(len(agent.usage) == 4 for agent in agents)
    assert all(u["completion_tokens"] == 24 for agent in agents for u in agent.usage)
    time.sleep(1)
    state = mars.state()
    assert state["mars"]["retained_tokens"] <= POOL_TOKENS
    assert state["emulation"]["steps"] > 0


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """SGLang's own scheduler behind our gate."""
    flags = ("--scheduler-policy", "lpm", "--mars-admission", "mars", *SMALL_POOL)
    with emulated_server(tmp_path_factory.mktemp("native"), *flags) as server:
        yield server


def test_admission_works_over_a_native_policy(native):
    def run(i: int) -> list[dict]:
        agent = Agent(native, f"p{i}", 1500, seed=60 + i)
        for _ in range(3):
            agent.turn(max_tokens=24)
        return agent.usage

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        usages = list(pool.map(run, range(8)))
    assert all(len(usage) == 3 for usage in usages)
    # Residency: what was admitted stays, so nearly every continuation is warm.
    warm = [u["prompt_tokens_details"]["cached_tokens"] > 1000 for usage in usages for u in usage[1:]]
    assert sum(warm) >= 0.8 * len(warm)
    assert "mars" not in native.state()  # the scheduler is SGLang's
    assert native.get("/server_info")["schedule_policy"] == "lpm"


RETRACT = {"SGLANG_TEST_RETRACT": "1", "SGLANG_TEST_RETRACT_INTERVAL": "20"}


@pytest.mark.parametrize("core", ["python", "rust"])
def test_forced_retractions_and_pages_of_sixteen_lose_nothing(tmp_path, core):
    flags = ("--scheduler-policy", "mars", "--page-size", "16", *SMALL_POOL)
    environment = {**RETRACT, "SGLANG_UNIFIED_RADIX_TREE_CORE_BACKEND": core}
    with emulated_server(tmp_path, *flags, environment=environment) as server:

        def run(i: int) -> list[dict]:
            agent = Agent(server, f"p{i}", 600, seed=80 + i)
            for _ in range(3):
                agent.turn(max_tokens=40)
            return agent.usage

        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            usages = list(pool.map(run, range(6)))
        assert all(u["completion_tokens"] == 40 for usage in usages for u in usage)
        state = server.state()["mars"]
        assert state["retractions"] > 0 and state["victim_orders"] > 0
