"""Whose turn a request is: by the ids it carries, else by what it continues."""

from collections.abc import Mapping
from typing import Any

from mars_sglang.config import MarsConfig
from mars_sglang.engine.identity import Identity, identify
from mars_sglang.engine.identity_sources import SHIPPED, load_sources
from mars_sglang.stream.tenant import scoped


class Recognition:
    def __init__(self, config: MarsConfig):
        self._sources = load_sources(config.identity) if config.identity else SHIPPED

    def identify(
        self, obj: Any, turn_id: str, body: Mapping[str, Any], headers: Mapping[str, str], path: str, now_s: float
    ) -> Identity:
        return identify(body, headers, self._sources)

    def ended(self, turn_id: str, answer: str | None) -> None:
        pass

    def scoped(self, program: str, headers: Mapping[str, str]) -> str:
        return scoped(program, headers.get("authorization") or headers.get("x-api-key"))
