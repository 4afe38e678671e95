"""What the drivers share: they wait for an order, and tell on standard output what the agent does.

Runs in the interpreter that has the agent installed, where of this project only ``mars_sglang.tool_call`` may be
imported, and only where the order asks for it. Lines of JSON on standard output, each with one key:

- ``ready``: the agent is imported; the order, one JSON object, may come on standard input.
- ``asked``: a request went out, at this time.
- ``answered``: it has its answer: ``id``, ``sent_s``, ``ended_s``, ``prompt_tokens``, ``cached_tokens`` (None where the
  server keeps it to itself), ``output_tokens`` and ``tool`` (the first that the answer calls, or None).
- ``report``: the last line: ``agent``, ``version``, ``turns`` and ``ended``, and what an agent has besides.

Times are seconds of the epoch.
"""

import contextlib
import json
import os
import sys
import threading
import time

import litellm
from litellm.integrations.custom_logger import CustomLogger


class Driver:
    """One session of an agent, as the driver of its package sees it. What the agent prints goes to standard error."""

    def __init__(self) -> None:
        self._lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self._lock = threading.Lock()
        os.dup2(2, 1)

    def order(self) -> dict:
        """Say that the agent is ready, and wait for what it is to do."""
        _first_request()
        litellm.callbacks.append(_Turns(self))
        self.tell("ready", True)
        return json.loads(sys.stdin.readline())

    def tell(self, key: str, value: object) -> None:
        """Write a line."""
        with self._lock, contextlib.suppress(OSError):
            self._lines.write(json.dumps({key: value}) + "\n")
            self._lines.flush()


def _first_request() -> None:
    """The client's first request imports and prepares for half a second of a core: it goes nowhere, ahead of time."""
    message = {"role": "user", "content": "-"}
    with contextlib.suppress(Exception):
        # Nobody listens on the port of the discard service.
        litellm.completion("openai/none", [message], api_base="http://127.0.0.1:9/v1", api_key="none", max_retries=0)


class _Turns(CustomLogger):
    """LiteLLM calls it for every request."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver = driver

    def log_pre_api_call(self, model, messages, kwargs) -> None:
        self._driver.tell("asked", time.time())

    def log_success_event(self, kwargs, response_obj, start_time, end_time) -> None:
        usage = response_obj.usage
        calls = response_obj.choices[0].message.tool_calls
        answered = {
            "id": response_obj.id,
            "sent_s": start_time.timestamp(),
            "ended_s": end_time.timestamp(),
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": getattr(usage.prompt_tokens_details, "cached_tokens", None),
            "output_tokens": usage.completion_tokens,
            "tool": calls[0].function.name if calls else None,
        }
        self._driver.tell("answered", answered)


def tool_calls(order: dict):
    """``mars_sglang.tool_call`` where the order says to report tools, else None.

    It needs pyzmq and msgspec beside the agent; the project itself is found by its folder, at the path's end.
    """
    if order.get("library") is None:
        return None
    sys.path.append(order["library"])
    import mars_sglang

    return mars_sglang.tool_call
