"""What a real server's responses and its ``/metrics`` say of turns that find their context, or do not."""

import concurrent.futures
import json
import re
import time
import urllib.request

import pytest

pytest.importorskip("sglang")

from tests.serving import Server, emulated_server

pytestmark = pytest.mark.server

ASKS = {"x-mars-info": "1"}
PROMPT = list(range(100, 400))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    flags = ("--scheduler-policy", "mars", "--enable-metrics", "--max-running-requests", "1")
    flags += ("--served-model-name", "m")
    with emulated_server(tmp_path_factory.mktemp("info"), *flags) as started:
        deadline = time.monotonic() + 30
        while started.get("/mars/state")["gate"]["control"] != "answers":
            assert time.monotonic() < deadline, "the control process never came"
            time.sleep(0.1)
        yield started


def turn(server: Server, program: str, prompt: list[int], headers=ASKS, tokens: int = 8) -> tuple[dict, list[int]]:
    """What ``meta_info`` of the answer says, and the context that the turn ended with."""
    answer = server.post("/generate", generate(prompt, tokens), {"x-session-id": program, **headers})
    return answer["meta_info"], prompt + answer["output_ids"]


def generate(prompt: list[int], tokens: int, **more) -> dict:
    return {"input_ids": prompt, "sampling_params": {"max_new_tokens": tokens, "ignore_eos": True}, **more}


def streamed(server: Server, program: str, prompt: list[int]) -> list[dict]:
    """``meta_info`` of each piece of a streamed answer."""
    request = urllib.request.Request(
        server.url + "/generate",
        json.dumps(generate(prompt, 8, stream=True)).encode(),
        {"content-type": "application/json", "x-session-id": program, **ASKS},
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        pieces = [line[6:] for line in response.read().decode().splitlines() if line.startswith("data: {")]
    return [json.loads(piece)["meta_info"] for piece in pieces]


def scrape(server: Server) -> dict[str, float]:
    """Values of our series by name and outcome."""
    with urllib.request.urlopen(server.url + "/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    found = {}
    for line in lines:
        if named := re.match(r"mars:(\w+)(\{.*\})? (\S+)$", line):
            outcome = re.search(r'outcome="(\w+)"', named[2] or "")
            found[f"{named[1]} {outcome[1]}" if outcome else named[1]] = float(named[3])
    return found


def test_a_first_turn_continues_nothing_and_the_next_one_is_warm(server):
    first, context = turn(server, "warm", PROMPT)
    told = first["mars"]
    assert told["program"] == "warm" and told["continuation"] is False and told["outcome"] is None
    assert told["gate_reason"] in ("fits", "nobody else inside") and told["gate_wait_s"] > 0
    second, _ = turn(server, "warm", [*context, 7, 8, 9])
    told = second["mars"]
    # The last token of an answer has no KV.
    assert (told["outcome"], told["reused_tokens"], told["recomputed_tokens"]) == ("warm", len(context) - 1, 0)
    assert told["continuation"] is True and told["cached_tokens"] == second["cached_tokens"] == len(context) - 1
    assert (told["gate_wait_s"], told["gate_reason"]) == (0.0, None)
    assert (told["queue_reason"], told["retractions"], told["dp_rank"]) == (None, 0, None)
    assert 0 <= told["queue_wait_s"] < 10


def test_the_last_piece_of_a_stream_says_it_too_and_no_other(server):
    _, context = turn(server, "stream", PROMPT)
    *pieces, last = streamed(server, "stream", [*context, 7, 8, 9])
    assert pieces and not any("mars" in piece for piece in pieces)
    assert last["mars"]["outcome"] == "warm" and last["mars"]["reused_tokens"] == len(context) - 1


def test_nothing_is_said_to_one_that_did_not_ask(server):
    meta, _ = turn(server, "quiet", PROMPT, headers={})
    assert "mars" not in meta


def test_a_chat_completion_asks_by_sglangs_own_field(server):
    answer = server.chat("Hello.", headers={"x-session-id": "chat"}, return_meta_info=True)
    assert answer["choices"][0]["meta_info"]["mars"]["program"] == "chat"
    assert "meta_info" not in server.chat("Hello.", headers={"x-session-id": "chat"})["choices"][0]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"messages": [{"role": "user", "content": "Hello."}], "max_tokens": 8}),
        ("/v1/responses", {"input": "Hello.", "max_output_tokens": 8}),
    ],
)
def test_endpoints_without_meta_info_are_left_alone(server, path, body):
    answer = server.post(path, {"model": "m", "return_meta_info": True, **body}, {"x-session-id": "other", **ASKS})
    assert "queue_wait_s" not in json.dumps(answer)


def test_a_turn_that_found_no_place_to_run_says_that_it_waited_for_room(server):
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        long = threads.submit(turn, server, "long", PROMPT, tokens=600)
        deadline = time.monotonic() + 30
        while scrape_running(server) < 1:
            assert time.monotonic() < deadline and not long.done(), "the long turn never ran"
        told = turn(server, "short", [1, 2, 3])[0]["mars"]
        long.result(60)
    assert told["queue_reason"] == "memory" and told["queue_wait_s"] > 0


def scrape_running(server: Server) -> int:
    return server.get("/v1/loads")["loads"][0]["num_running_reqs"]


def test_the_metrics_follow_what_the_responses_said(server):
    before = scrape(server)
    warm, context = turn(server, "counted", PROMPT)
    warm, context = turn(server, "counted", [*context, 7, 8, 9])
    server.flush()
    cold, _ = turn(server, "counted", [*context, 7, 8, 9])
    assert cold["mars"]["outcome"] == "cold" and cold["mars"]["recomputed_tokens"] == len(context) - 1
    expected = {
        "resumed_turns_total warm": 1,
        "resumed_turns_total partial": 0,
        "resumed_turns_total cold": 1,
        "reused_tokens_total": warm["mars"]["reused_tokens"] + cold["mars"]["reused_tokens"],
        "recomputed_tokens_total": cold["mars"]["recomputed_tokens"],
        "retracted_turns_total": 0,
    }
    deadline = time.monotonic() + 20
    while (moved := {name: scrape(server)[name] - before[name] for name in expected}) != expected:
        assert time.monotonic() < deadline, f"expected {expected}, found {moved}"
        time.sleep(0.2)
    now = scrape(server)
    assert now["retained_programs"] == 1
    while scrape(server)["retained_tokens"] != len(context) + 3 + 7:
        assert time.monotonic() < deadline, f"the walk found {scrape(server)['retained_tokens']} tokens"
        time.sleep(0.2)
