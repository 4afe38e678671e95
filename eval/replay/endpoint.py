"""The server as a client sees it: streamed chat completions, its facts, its load, its counters."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

_EXCERPT = 300
_RETRACTIONS = re.compile(rb"^sglang:num_retracted_requests_total(?:\{[^}]*\})? (\S+)", re.MULTILINE)
_FACTS_TIMEOUT_S = 30.0


_KEEP_ALIVE_S = 2.0
"""Real seconds for which an idle connection is used again. SGLang's HTTP server closes one after 5 s, and a
request that meets the closing is lost: after a pause of just that length, a program would fail for nothing."""


class EndpointError(Exception):
    """The server cannot be used for a run at all."""


class TurnFailed(Exception):
    """A request that got no full answer: a short ``reason`` to count by, and the ``detail`` that was seen."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Answer:
    """One full answer. Times are the clock's; ``cached_tokens`` is None if the server keeps it to itself."""

    text: str
    first_at: float
    last_at: float
    prompt_tokens: int
    cached_tokens: int | None
    output_tokens: int


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What a server says about itself; None for what it does not say."""

    model: str
    version: str | None
    context_tokens: int | None
    kv_tokens: int | None
    policy: str | None
    emulation: dict[str, Any] | None
    mars: dict[str, Any] | None = None
    """Counters of our own scheduler."""

    @property
    def largest_context(self) -> int | None:
        """Most tokens, prompt and answer together, that one request can have."""
        limits = [limit for limit in (self.context_tokens, self.kv_tokens) if limit]
        # The scheduler keeps one token of either back, and five of the prompt's share.
        return min(limits) - 6 if limits else None


class Endpoint:
    """One server. ``now`` gives the times of answers. Use as an async context manager."""

    def __init__(self, base_url: str, now: Callable[[], float]) -> None:
        self.base_url = base_url.rstrip("/")
        self._now = now
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Endpoint:
        # No limit on connections: hundreds of programs wait for their answers at once.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"Content-Type": "application/json"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def facts(self) -> ServerFacts:
        """Raises EndpointError if this is no SGLang server that answers."""
        info = await self._json("/server_info")
        models = (await self._json("/v1/models")).get("data") or []
        if not models:
            raise EndpointError(f"{self.base_url}/v1/models lists no model")
        state = (info.get("internal_states") or [{}])[0]
        return ServerFacts(
            model=models[0]["id"],
            version=info.get("version"),
            context_tokens=models[0].get("max_model_len") or info.get("context_length"),
            kv_tokens=info.get("max_total_num_tokens"),
            # Under a policy of ours SGLang's own field still names the native one beneath it.
            policy=(info.get("mars") or {}).get("turn_policy") or info.get("schedule_policy"),
            emulation=state.get("emulation"),
            mars=state.get("mars"),
        )

    async def flush(self) -> None:
        """Empties the prefix cache. Raises EndpointError if the server does not do it."""
        url = f"{self.base_url}/flush_cache"
        try:
            async with self._session.post(url, params={"timeout": "10"}, timeout=_short()) as response:
                if response.status != 200:
                    raise EndpointError(f"{url}: HTTP {response.status}: {(await response.text())[:_EXCERPT]}")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EndpointError(f"{url}: {error or type(error).__name__}") from error

    async def load(self) -> dict[str, Any] | None:
        """The scheduler's load, from a snapshot in shared memory: cheap enough to ask every second. None if unknown."""
        try:
            loads = (await self._json("/v1/loads?include=core")).get("loads")
        except EndpointError:
            return None
        return loads[0] if loads else None

    async def retractions(self) -> int | None:
        """Running requests that the engine has evicted so far. None where the server counts none (--enable-metrics)."""
        try:
            async with self._session.get(f"{self.base_url}/metrics", timeout=_short()) as response:
                text = await response.read() if response.status == 200 else b""
        except (aiohttp.ClientError, TimeoutError):
            return None
        if b"sglang:" not in text:
            return None
        # A counter that was never raised is not listed.
        return round(sum(float(value) for value in _RETRACTIONS.findall(text)))

    async def count(self, model: str, messages: list[tuple[str, bytes]]) -> int:
        """Prompt tokens of ``messages``, by asking for one token. Raises EndpointError."""
        listed = ",".join(f'{{"role":"{role}","content":"{content.decode()}"}}' for role, content in messages)
        body = f'{{"model":{json.dumps(model)},"max_tokens":1,"temperature":0,"messages":[{listed}]}}'
        url = f"{self.base_url}/v1/chat/completions"
        try:
            async with self._session.post(url, data=body.encode(), timeout=_short()) as response:
                text = await response.text()
                if response.status != 200:
                    raise EndpointError(f"{url}: HTTP {response.status}: {text[:_EXCERPT]}")
                return json.loads(text)["usage"]["prompt_tokens"]
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise EndpointError(f"{url}: a short prompt got no usable answer: {error!r}") from error

    async def chat(self, body: bytes, timeout_s: float) -> Answer:
        """Streams one answer; ``timeout_s`` in real seconds. Raises TurnFailed."""
        pieces: list[bytes] = []
        first_at = None
        try:
            async with asyncio.timeout(timeout_s):
                async with self._session.post(f"{self.base_url}/v1/chat/completions", data=body) as response:
                    if response.status != 200:
                        raise TurnFailed(f"http_{response.status}", (await response.text())[:_EXCERPT])
                    async for piece in response.content.iter_any():
                        if first_at is None:
                            # SGLang opens the stream with the first token, not with the request.
                            first_at = self._now()
                        pieces.append(piece)
        except TimeoutError as error:
            raise TurnFailed("timeout", f"no full answer in {timeout_s:.0f} real seconds") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise TurnFailed("disconnect", f"{type(error).__name__}: {error}"[:_EXCERPT]) from error
        last_at = self._now()
        return read_stream(b"".join(pieces), last_at if first_at is None else first_at, last_at)

    async def _json(self, path: str) -> dict[str, Any]:
        url = self.base_url + path
        try:
            async with self._session.get(url, timeout=_short()) as response:
                text = await response.text()
                if response.status != 200:
                    raise EndpointError(f"{url}: HTTP {response.status}: {text[:_EXCERPT]}")
                value = json.loads(text)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise EndpointError(f"{url}: {error or type(error).__name__}") from error
        if not isinstance(value, dict):
            raise EndpointError(f"{url}: {text[:_EXCERPT]!r} is not an object")
        return value


def read_stream(stream: bytes, first_at: float, last_at: float) -> Answer:
    """The answer in a whole event stream; parsed once at its end, which is cheaper than message by message.

    Raises:
        TurnFailed: if the stream reports an error, was aborted, ended early, or carries no usage.
    """
    text: list[str] = []
    usage = None
    done = False
    for event in stream.split(b"\n\n"):
        if not event.startswith(b"data: "):
            continue
        payload = event[6:].strip()
        if payload == b"[DONE]":
            done = True
            continue
        try:
            message = json.loads(payload)
        except ValueError as error:
            raise TurnFailed("bad_stream", payload[:_EXCERPT].decode(errors="replace")) from error
        if "error" in message:
            raise TurnFailed("stream_error", json.dumps(message["error"])[:_EXCERPT])
        for choice in message.get("choices") or ():
            content = (choice.get("delta") or {}).get("content")
            if content:
                text.append(content)
            if choice.get("finish_reason") == "abort":
                raise TurnFailed("aborted", payload[:_EXCERPT].decode(errors="replace"))
        usage = message.get("usage") or usage
    if not done:
        raise TurnFailed("disconnect", f"the stream ended before [DONE], after {len(stream)} bytes")
    if usage is None:
        raise TurnFailed("no_usage", "the stream had no usage record (stream_options.include_usage)")
    details = usage.get("prompt_tokens_details") or {}
    return Answer(
        text="".join(text),
        first_at=first_at,
        last_at=last_at,
        prompt_tokens=usage["prompt_tokens"],
        cached_tokens=details.get("cached_tokens"),
        output_tokens=usage["completion_tokens"],
    )


def _short() -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=_FACTS_TIMEOUT_S)
