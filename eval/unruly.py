"""Agents that run tools and behave badly, from a seed: the load of :mod:`eval.soak` and :mod:`eval.ranks`.

Each agent plays one program after another and reports its tools to the sidecar. Turns are hung up on, aborted,
called off while they run; tools never come back, or come back long after anybody waited. What the seed gives is what
is asked for; when it happens is up to the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import Counter
from dataclasses import dataclass, field
from random import Random

import aiohttp

from mars_sglang.emulation.model_folder import tool_call_text
from mars_sglang.emulation.words import WORDS
from mars_sglang.tools.call import ToolCall
from mars_sglang.tools.channel import Channel
from mars_sglang.tools.description import describe

#: What can happen to a turn while it runs, and to the tool after it.
IN_A_TURN = ("hang_up", "abort", "delete", "close")
IN_A_TOOL = ("dead_tool", "slow_tool", "delete_in_tool")
#: What can happen to the whole server, and how often beside each other.
TO_ALL = {"plain": 6, "flush": 4, "in_place": 3, "retract": 3, "abort_all": 1, "pause_abort": 1}

TOOLS = ("terminal", "search", "edit")

#: Real seconds. Longer than any queue of the load that still moves.
TURN_TIMEOUT_S = 900.0

#: Idle connections are closed sooner than the server does it (after 5 s): a turn sent on one that is just being closed
#: fails, and that is nobody's fault.
KEEPALIVE_S = 2.0

#: Answers kept that should not have been.
MAX_UNEXPECTED = 20


@dataclass(frozen=True)
class Habits:
    """What the agents do. Sizes in tokens, ends included; times in emulated seconds."""

    agents: int
    """At work at a time."""
    turns: int = 8
    """Of a program, at most."""
    prompt: tuple[int, int] = (200, 1500)
    answer: tuple[int, int] = (5, 150)
    result: tuple[int, int] = (20, 300)
    tool_s: float = 6.0
    """How long a tool runs, in the mean."""
    slow_tool_s: float = 90.0
    """How long a slow one does: past the silence after which a program counts as dormant."""
    faults: float = 0.2
    """Share of turns, and of tools, with a fault."""
    trouble_s: float | None = 20.0
    """Between two faults of the whole server, in the mean; None for none of them."""
    vary: dict[str, list] = field(default_factory=dict)
    """More fields of a request: one value of each, drawn by program; None leaves the field away."""


class UnrulyAgents:
    """Args: session: with the server as its base URL. tools: the way to its sidecar; None reports no tools."""

    def __init__(
        self, session: aiohttp.ClientSession, habits: Habits, seed: int, speed: float, tools: Channel | None
    ) -> None:
        self._session = session
        self._habits = habits
        self._seed = seed
        self._speed = speed
        self._tools = tools
        self._stop = asyncio.Event()
        self._aborts = 0
        """Odd while the turns of everybody are being aborted."""
        self.turns = 0
        """Answered to their end."""
        self.programs = 0
        self.under_way = 0
        self.answers: Counter[str] = Counter()
        """Turns by what they were answered: status and finish reason."""
        self.faults: Counter[str] = Counter()
        self.unexpected: list[str] = []
        """Answers that no fault explains, the first of them."""

    async def play(self) -> None:
        """Until :meth:`stop`, and then until the turns under way have ended."""
        tasks = [self._agent(number) for number in range(self._habits.agents)]
        if self._habits.trouble_s is not None:
            tasks.append(self._trouble())
        await asyncio.gather(*tasks)

    def stop(self) -> None:
        """No more turns are begun, and no faults."""
        self._stop.set()

    # -- an agent ------------------------------------------------------------------------------

    async def _agent(self, number: int) -> None:
        for life in itertools.count():
            if self._stop.is_set():
                return
            self.programs += 1
            await self._program(f"agent-{number}-{life}", Random(f"{self._seed}/{number}/{life}"))

    async def _program(self, name: str, rng: Random) -> None:
        habits = self._habits
        messages = [{"role": "user", "content": _words(rng, habits.prompt)}]
        turns = rng.randint(1, habits.turns)
        drawn = {name: rng.choice(values) for name, values in habits.vary.items()}
        more = {name: value for name, value in drawn.items() if value is not None}
        for number in range(turns):
            tool = rng.choice(TOOLS)
            arguments = {"command": _words(rng, habits.answer)}
            # Few agents say which turn is their last; what the others leave behind has to go by itself.
            last = number == turns - 1 and rng.random() < 0.5
            body = more | {"messages": messages, "is_last_step": last}
            while not await self._turn(f"{name}-{number}", name, body, tool, arguments, rng):
                if self._stop.is_set() or rng.random() < 0.5:
                    return
            if number == turns - 1 or self._stop.is_set() or not await self._tool(name, tool, rng):
                return
            call = {"id": "c", "type": "function", "function": {"name": tool, "arguments": json.dumps(arguments)}}
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
            messages.append({"role": "tool", "tool_call_id": "c", "content": _words(rng, habits.result)})

    async def _tool(self, program: str, name: str, rng: Random) -> bool:
        """Whether it came back to a program that goes on."""
        fault = self._drawn(rng, IN_A_TOOL)
        call = None
        if self._tools is not None:
            call = ToolCall(describe(program, name), self._tools)
            call.start()
        if fault == "dead_tool":
            return False
        if fault == "delete_in_tool":
            await self._delete(program)
        mean_s = self._habits.slow_tool_s if fault == "slow_tool" else self._habits.tool_s
        await self._sleep(rng.expovariate(1 / mean_s))
        if call is not None:
            call.end("failed" if rng.random() < 0.1 else None)
        return not self._stop.is_set()

    # -- a turn --------------------------------------------------------------------------------

    async def _turn(self, turn: str, program: str, body: dict, tool: str, arguments: dict, rng: Random) -> bool:
        """Whether it was answered to its end."""
        stream = rng.random() < 0.5
        rid = f"{turn}-{rng.getrandbits(40):x}"
        body = body | {
            "model": "m",
            "rid": rid,
            "tools": [
                {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in TOOLS
            ],
            "custom_params": {"emulate_text": tool_call_text(tool, arguments)},
            "max_tokens": 100 + 2 * self._habits.answer[1],
            "stream": stream,
        }
        fault = self._drawn(rng, IN_A_TURN)
        asked = asyncio.create_task(self._ask(body, {"x-session-id": program}, excused=fault == "abort"))
        if fault is None:
            return await asked
        await asyncio.wait({asked}, timeout=rng.uniform(0, 4) / self._speed)
        match fault:
            case "hang_up":
                asked.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    return await asked
                self.answers["hung up on"] += 1
                return False
            case "abort":
                await self._post("/abort_request", {"rid": rid})
            case "delete":
                await self._delete(program)
            case "close":
                await self._post("/close_session", {"session_id": program})
        return await asked

    async def _ask(self, body: dict, headers: dict[str, str], excused: bool) -> bool:
        aborts = self._aborts
        self.under_way += 1
        try:
            timeout = aiohttp.ClientTimeout(total=TURN_TIMEOUT_S)
            async with self._session.post(
                "/v1/chat/completions", json=body, headers=headers, timeout=timeout
            ) as response:
                status, text = response.status, await response.text()
            answer = f"{status} {_finish(text, body['stream'])}" if status == 200 else f"{status}"
        except (aiohttp.ClientError, TimeoutError) as error:
            answer, text = type(error).__name__, str(error)
        finally:
            self.under_way -= 1
        self.answers[answer] += 1
        if answer in ("200 tool_calls", "200 stop", "200 length"):
            self.turns += 1
            return True
        excused |= aborts != self._aborts or aborts % 2 == 1
        aborted = answer == "200 abort" or (answer == "400" and "abort" in text)
        if not (aborted and excused) and len(self.unexpected) < MAX_UNEXPECTED:
            self.unexpected.append(f"{body['rid']}: {answer}: {text[-300:]}")
        return False

    # -- the whole server ----------------------------------------------------------------------

    async def _trouble(self) -> None:
        rng = Random(f"{self._seed}/trouble")
        while not self._stop.is_set():
            await self._sleep(rng.expovariate(1 / self._habits.trouble_s))
            (kind,) = rng.choices(list(TO_ALL), list(TO_ALL.values()))
            self.faults[kind] += 1
            pause_s = rng.uniform(0.05, 1.0)
            match kind:
                case "plain":
                    messages = [{"role": "user", "content": _words(rng, self._habits.prompt)}]
                    body = {"model": "m", "rid": f"plain-{rng.getrandbits(40):x}", "messages": messages}
                    await self._ask(body | {"max_tokens": 50, "stream": False}, {}, excused=False)
                case "flush":
                    await self._post("/flush_cache", {}, accepted=(200, 400))
                case "in_place" | "retract":
                    await self._pause(kind, pause_s, flush=rng.random() < 0.5)
                case "abort_all" | "pause_abort":
                    self._aborts += 1
                    if kind == "abort_all":
                        await self._post("/abort_request", {"abort_all": True})
                    else:
                        await self._pause("abort", pause_s, flush=False)
                    self._aborts += 1

    async def _pause(self, mode: str, real_s: float, flush: bool) -> None:
        try:
            await self._post("/pause_generation", {"mode": mode})
            await asyncio.sleep(real_s)
            if flush:
                await self._post("/flush_cache", {}, accepted=(200, 400))
        finally:
            await self._post("/continue_generation", {"torch_empty_cache": False})

    # -- small things --------------------------------------------------------------------------

    def _drawn(self, rng: Random, faults: tuple[str, ...]) -> str | None:
        if rng.random() >= self._habits.faults:
            return None
        fault = rng.choice(faults)
        self.faults[fault] += 1
        return fault

    async def _sleep(self, emulated_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), emulated_s / self._speed)

    async def _delete(self, program: str) -> None:
        await self._call("DELETE", f"/mars/programs/{program}", accepted=(200, 404))

    async def _post(self, path: str, body: dict, accepted: tuple[int, ...] = (200,)) -> None:
        await self._call("POST", path, accepted, json=body)

    async def _call(self, method: str, path: str, accepted: tuple[int, ...], **more) -> None:
        try:
            timeout = aiohttp.ClientTimeout(total=120)
            async with self._session.request(method, path, timeout=timeout, **more) as response:
                status, text = response.status, await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            status, text = type(error).__name__, str(error)
        self.answers[f"{method} /{path.split('/')[1]}: {status}"] += 1
        if status not in accepted and len(self.unexpected) < MAX_UNEXPECTED:
            self.unexpected.append(f"{method} {path}: {status}: {text[-300:]}")


def _words(rng: Random, tokens: tuple[int, int]) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(*tokens)))


def _finish(text: str, stream: bool) -> str:
    """Finish reason of a chat answer; what is wrong with it where there is none."""
    try:
        if not stream:
            return json.loads(text)["choices"][0]["finish_reason"]
        pieces = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        if errors := [piece["error"] for piece in pieces if "error" in piece]:
            return f"error {errors[0]}"
        reasons = [choice["finish_reason"] for piece in pieces for choice in piece["choices"]]
        return next((reason for reason in reasons if reason), "without an end")
    except (ValueError, LookupError, TypeError):
        return "unreadable"
