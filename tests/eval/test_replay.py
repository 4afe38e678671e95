"""The replayer's protocol: what it sends, what it records, and that no program is lost."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from eval.replay.arrivals import Arrivals
from eval.replay.endpoint import Endpoint, TurnFailed, read_stream
from eval.replay.record import recomputed
from eval.replay.replay import INTERRUPTED, Replay, ReplayOptions
from eval.replay.ruler import Ruler
from eval.replay.timing import ServerClock
from tests.eval.builders import program, turn


class Server:
    """Answers a chat like SGLang: counts words, remembers prompts, misbehaves when told to."""

    def __init__(self, chat=None):
        self.bodies = []
        self.flushed = 0
        self._chat = chat

    async def chat(self, request):
        body = await request.json()
        self.bodies.append(body)
        if self._chat is not None and (response := await self._chat(request, body)) is not None:
            return response
        tokens = 3 + sum(4 + len(m["content"].split()) for m in body["messages"])
        usage = {"prompt_tokens": tokens, "completion_tokens": body["max_tokens"],
                 "prompt_tokens_details": {"cached_tokens": 5}}  # fmt: skip
        if not body.get("stream"):
            return web.json_response({"usage": usage})
        deltas = [{"choices": [{"delta": {"content": " so"}}]}] * body["max_tokens"]
        return await stream(request, *deltas, {"choices": [], "usage": usage})

    async def info(self, request):
        state = {"emulation": {"speed": 3.0}}
        return web.json_response({"version": "0", "max_total_num_tokens": 1000, "internal_states": [state]})

    async def models(self, request):
        return web.json_response({"data": [{"id": "m", "max_model_len": 2000}]})

    async def loads(self, request):
        load = {"num_used_tokens": 7, "token_usage": 0.5, "num_running_reqs": 1, "num_waiting_reqs": 2}
        return web.json_response({"loads": [load]})

    async def metrics(self, request):
        text = 'sglang:num_retracted_requests_total{tp_rank="0"} 2.0\nsglang:num_retracted_requests_total{a="1"} 1.0\n'
        return web.Response(text=text)

    async def flush(self, request):
        self.flushed += 1
        return web.Response()


async def stream(request, *events, done=True):
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for event in events:
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
    if done:
        await response.write(b"data: [DONE]\n\n")
    return response


@asynccontextmanager
async def serving(server):
    app = web.Application()
    app.add_routes(
        [
            web.post("/v1/chat/completions", server.chat), web.get("/server_info", server.info),
            web.get("/v1/models", server.models), web.get("/v1/loads", server.loads),
            web.get("/metrics", server.metrics), web.post("/flush_cache", server.flush),
        ]
    )  # fmt: skip
    runner = web.AppRunner(app, shutdown_timeout=0.05)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    try:
        async with Endpoint(f"http://127.0.0.1:{port}", ServerClock().now) as endpoint:
            yield endpoint
    finally:
        await runner.cleanup()


def replay(programs, chat=None, stop_when=None, **options):
    """The result of replaying ``programs``, and the server with what it got."""

    async def go():
        server = Server(chat)
        stop = asyncio.Event()
        async with serving(server) as endpoint:
            options.setdefault("arrivals", Arrivals())
            asked = ReplayOptions(seed=0, run_id="r1", **options)
            play = Replay(programs, endpoint, "m", Ruler(), asked, ServerClock())
            running = asyncio.create_task(play.run(stop))
            if stop_when:
                while not stop_when(server):
                    await asyncio.sleep(0)
                stop.set()
            return await running, server

    return asyncio.run(go())


def test_every_turn_is_sent_as_asked_and_recorded():
    result, server = replay([program(turn(100, 7, tool="ls"), turn(150, 3), id="a")])
    first, second = server.bodies
    for body, out in ((first, 7), (second, 3)):
        assert body["max_tokens"] == out
        assert (body["ignore_eos"], body["temperature"], body["stream"]) == (True, 0, True)
        assert body["stream_options"] == {"include_usage": True}
        assert body["program_id"] == "a-r1"
        assert "session_id" not in body
    assert second["messages"][:1] == first["messages"]
    assert second["messages"][1] == {"role": "assistant", "content": " so" * 7}
    (record,) = result.programs
    assert record.completed
    one, two = record.turns
    assert (one.prompt_tokens, two.prompt_tokens) == (100, 150)
    assert (one.output_tokens, one.cached_tokens, one.recomputed_tokens, one.tool) == (7, 5, 0, "ls")
    assert two.recomputed_tokens == 100 + 7 - 1 - 5
    assert 0 <= one.sent_s <= one.first_token_s <= one.last_token_s <= two.sent_s
    assert record.makespan_s == two.last_token_s


def test_a_program_is_a_session_too_where_that_is_asked_for():
    _, server = replay([program(turn(100, 7), turn(150, 3), id="a")], session_ids=True)
    assert [(body["session_id"], body["program_id"]) for body in server.bodies] == [("a-r1", "a-r1")] * 2


def test_a_program_says_with_its_last_turn_that_it_is_over_where_that_is_asked_for():
    _, server = replay([program(turn(100, 7), turn(150, 3), id="a")], says_over=True)
    assert [body.get("is_last_step") for body in server.bodies] == [None, True]


def test_programs_share_a_server_without_mixing():
    programs = [program(*[turn(80 + 40 * i, 5) for i in range(5)], id=f"p{n}") for n in range(40)]
    result, server = replay(programs)
    assert all(r.completed and len(r.turns) == 5 for r in result.programs)
    assert len(server.bodies) == 200
    assert {t.prompt_tokens - t.traced_prompt_tokens for r in result.programs for t in r.turns} == {0}
    assert len({body["messages"][0]["content"] for body in server.bodies}) == 40


async def refuse(request, body):
    return web.Response(status=400, text="prompt is too long: " + "x" * 5000)


async def cut_off(request, body):
    response = await stream(request, {"choices": [{"delta": {"content": " so"}}]}, done=False)
    request.transport.close()
    return response


async def end_early(request, body):
    return await stream(request, {"choices": [{"delta": {"content": " so"}}]}, done=False)


async def say_error(request, body):
    return await stream(request, {"error": {"message": "out of memory"}})


async def keep_usage(request, body):
    return await stream(request, {"choices": [{"delta": {"content": " so"}}]})


async def hang(request, body):
    await asyncio.sleep(30)


@pytest.mark.parametrize(
    ("chat", "reason", "detail"),
    [
        (refuse, "http_400", "prompt is too long"),
        (cut_off, "disconnect", ""),
        (end_early, "disconnect", "before [DONE]"),
        (say_error, "stream_error", "out of memory"),
        (keep_usage, "no_usage", "include_usage"),
    ],
)
def test_failures_have_a_reason(chat, reason, detail):
    result, _ = replay([program(turn(), turn(), id="a"), program(id="b")], chat)
    for record in result.programs:
        assert (record.failure, record.completed, record.turns) == (reason, False, [])
        assert detail in record.detail
        assert len(record.detail) <= 400


def test_one_failure_leaves_the_others_alone():
    async def refuse_one(request, body):
        return web.Response(status=503, text="no") if body["program_id"] == "b-r1" else None

    result, _ = replay([program(turn(), turn(), id=name) for name in "abc"], refuse_one)
    assert [r.failure for r in result.programs] == [None, "http_503", None]


def test_silence_is_a_timeout():
    result, _ = replay([program(id="a")], hang, request_timeout_s=0.05)
    assert result.programs[0].failure == "timeout"


def test_interruption_keeps_what_happened():
    async def second_turn_hangs(request, body):
        return await hang(request, body) if len(body["messages"]) > 1 else None

    programs = [program(turn(100), turn(200), id="a")]
    result, _ = replay(programs, second_turn_hangs, stop_when=lambda server: len(server.bodies) == 2)
    assert result.partial
    (record,) = result.programs
    assert (record.failure, len(record.turns)) == (INTERRUPTED, 1)
    assert "1 of 2" in record.detail


def test_concurrency_is_kept():
    now, most = 0, 0

    async def watch(request, body):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.002)
        now -= 1

    result, _ = replay([program(id=str(i)) for i in range(9)], watch, arrivals=Arrivals(concurrency=3))
    assert most == 3
    assert all(r.completed for r in result.programs)


def test_pauses_of_people_take_no_slot_and_pauses_are_cut():
    programs = [program(turn(tool="human", tool_s=9), turn(200), id=str(i)) for i in range(3)]
    programs.append(program(turn(tool="ls", tool_s=0.0), turn(200), id="tool"))
    result, _ = replay(programs, tool_slots=1, max_pause_s=0.01)
    pauses = [r.turns[0] for r in result.programs]
    assert [p.tool_wait_s for p in pauses] == [0] * 3 + [pytest.approx(0, abs=0.01)]
    assert [p.tool_s for p in pauses[:3]] == [0.01] * 3
    assert all(r.completed for r in result.programs)


def test_a_turn_without_a_recorded_pause_goes_on_at_once():
    result, _ = replay([program(turn(tool_s=None), turn(200))])
    assert result.programs[0].completed


def test_facts_and_counters_of_a_server():
    async def go():
        server = Server()
        async with serving(server) as endpoint:
            facts = await endpoint.facts()
            await endpoint.flush()
            return facts, await endpoint.retractions(), await endpoint.load(), server.flushed

    facts, retractions, load, flushed = asyncio.run(go())
    assert facts.largest_context == 1000 - 6
    assert facts.emulation == {"speed": 3.0}
    assert (retractions, load["token_usage"], flushed) == (3, 0.5, 1)


def test_aborted_stream_is_a_failure():
    event = {"choices": [{"delta": {}, "finish_reason": "abort"}]}
    with pytest.raises(TurnFailed, match="aborted"):
        read_stream(b"data: " + json.dumps(event).encode() + b"\n\ndata: [DONE]\n\n", 0, 1)


@pytest.mark.parametrize(
    ("context", "kept", "prompt", "cached", "expected"),
    [
        (None, 0, 100, 30, 0),  # first turn: nothing to compute again, whatever is shared
        (110, 107.0, 150, 107, 0),  # warm
        (110, 107.0, 150, 0, 107),  # all lost
        (100, 107.0, 150, 60, 39),  # the last answer token's KV was never there
        (1000, 400.0, 800, 320, 80),  # compaction: only what was kept counts
        (110, 107.0, 90, 0, 89),  # the last token of a prompt is always computed
        (110, 107.0, 150, 140, 0),  # more cached than its own: shared with others
        (110, 107.0, 150, None, None),  # not reported
    ],
)
def test_recomputed_tokens(context, kept, prompt, cached, expected):
    assert recomputed(context, kept, prompt, cached) == expected
