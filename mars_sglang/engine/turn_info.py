"""What a response says of its turn where the client asked: ``meta_info["mars"]``, one flat dictionary.

The server process makes it, of what it knows and of what the scheduler process sent with the end of the answer
(:mod:`mars_sglang.engine.output_streamer`). ``docs/metrics.md`` has the fields.
"""

from collections.abc import Mapping
from typing import Any

from mars_sglang.engine.server_turn import ServerTurn
from mars_sglang.engine.wire import TURN_KEY

#: A client asks by this header, or by SGLang's own field of a chat completion.
HEADER, HEADER_VALUE = "x-mars-info", "1"
FIELD = "return_meta_info"

#: What the scheduler process sends, where it is not ours, or the turn never started, or continued nothing.
_NOTHING_SENT = {
    "outcome": None,
    "reused_tokens": None,
    "recomputed_tokens": None,
    "queue_wait_s": None,
    "queue_reason": None,
}


def asked(body: Mapping[str, Any], headers: Mapping[str, str]) -> bool:
    """Whether a request wants it in its response."""
    return headers.get(HEADER) == HEADER_VALUE or body.get(FIELD) is True


def add(turn: ServerTurn, response: Any) -> None:
    """Put it into a response on its way to the client, where an answer ends in it."""
    for output in response if isinstance(response, list) else [response]:
        meta = output.get("meta_info") if isinstance(output, dict) else None
        if not meta or not meta.get("finish_reason"):
            continue
        meta[TURN_KEY] = {
            "program": turn.identity.program,
            "continuation": turn.continuation,
            "cached_tokens": meta.get("cached_tokens"),
            **_NOTHING_SENT,
            **meta.get(TURN_KEY, {}),
            "gate_wait_s": turn.gate_wait_s,
            "gate_reason": turn.gate_reason,
            "retractions": meta.get("num_retractions"),
            "dp_rank": meta.get("dp_rank"),
        }
