"""Whose turn a request is: by the ids it carries, else by what it continues."""

import os
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mars_sglang.config import MarsConfig
from mars_sglang.core.continuation import FIRST, Continuations
from mars_sglang.core.prompt import Prompt, Text, answer_of, prompt_of
from mars_sglang.engine.identity import Identity, identify
from mars_sglang.engine.identity_sources import SHIPPED, load_sources
from mars_sglang.engine.tool_names import ParsedAnswer
from mars_sglang.stream.tenant import scoped

#: How a program that sends no id was recognised.
BY_CONTINUATION = "continuation"

#: How SGLang begins the ids of the responses endpoint.
RESPONSE_PREFIX = "resp_"


class Recognition:
    """One per server process.

    Args:
        config: whether continuation counts, and where else ids may stand.

    Raises:
        SourcesError: the file of the configuration is no table of sources.
    """

    def __init__(self, config: MarsConfig):
        self._sources = load_sources(Path(config.identity)) if config.identity else SHIPPED
        self._continuations: Continuations | None = None
        if config.recognise:
            # The names go to other processes, which may hear several servers.
            self._continuations = Continuations(f"{BY_CONTINUATION}/{os.getpid()}-{secrets.token_hex(3)}")
        self._open: dict[str, tuple[str, Prompt]] = {}

    def identify(self, turn_id: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Identity:
        """The program of a request.

        One that continues nothing and offers no tools may be a chat and not an agent: it is
        given a name, to be recognised by if it is continued, and is not ``gated``.

        Raises:
            IdentityError: its ids cannot be used.
        """
        identity = identify(body, headers, self._sources)
        if identity.program is not None or self._continuations is None or turn_id in self._open:
            return identity
        prompt = prompt_of(body)
        if prompt is None:
            return identity
        match = self._continuations.begin(identity.group, prompt)
        self._open[turn_id] = (match.program, prompt)
        return replace(
            identity,
            program=scoped(match.program, _key(headers)),
            recognised_by=BY_CONTINUATION,
            gated=match.how != FIRST or bool(body.get("tools")),
        )

    def ended(self, turn_id: str, parsed: ParsedAnswer, text: str) -> None:
        """The turn has its answer, and its client is about to see it.

        Args:
            text: the answer as the model wrote it, which is what a client of raw text sends back.
        """
        known = self._open.pop(turn_id, None)
        if known is None:
            return
        program, prompt = known
        answer = answer_of(text) if isinstance(prompt, Text) else answer_of(parsed.content, parsed.calls)
        # SGLang gives a response the id of its request, and clients go on from it by that.
        self._continuations.ended(program, prompt, answer, turn_id if turn_id.startswith(RESPONSE_PREFIX) else None)

    def over(self, turn_id: str) -> None:
        """The turn is over, with or without an answer."""
        known = self._open.pop(turn_id, None)
        if known is not None:
            self._continuations.failed(*known)

    def forget(self, program: str) -> None:
        """The program is over."""
        if self._continuations is not None and f"{BY_CONTINUATION}/" in program:
            self._continuations.forget(program[program.index(f"{BY_CONTINUATION}/") :])

    def scoped(self, program: str, headers: Mapping[str, str]) -> str:
        """A program's id as the sender of these headers owns it: its own id, or the name that we gave."""
        key = _key(headers)
        return program if program.startswith(scoped(f"{BY_CONTINUATION}/", key)) else scoped(program, key)


def _key(headers: Mapping[str, str]) -> str | None:
    return headers.get("authorization") or headers.get("x-api-key")
