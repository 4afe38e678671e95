"""What a response says of its turn where the client asked: ``meta_info["mars"]``, one flat dictionary.

The scheduler process sends :func:`engine_part` with the end of the answer, and the server process makes the whole of
it. ``docs/metrics.md`` has the fields.
"""

from collections.abc import Mapping
from typing import Any

from mars_sglang.engine.server_turn import ServerTurn
from mars_sglang.engine.turns import ReqTurn

#: Its key in ``meta_info``, and in SGLang's ``customized_info`` on the way there.
KEY = "mars"

#: A client asks by this header, or by SGLang's own field of a chat completion.
HEADER, HEADER_VALUE = "x-mars-info", "1"
FIELD = "return_meta_info"

_NOT_STARTED = {
    "outcome": None,
    "reused_tokens": None,
    "recomputed_tokens": None,
    "queue_wait_s": None,
    "queue_reason": None,
}


def asked(body: Mapping[str, Any], headers: Mapping[str, str]) -> bool:
    """Whether a request wants it in its response."""
    return headers.get(HEADER) == HEADER_VALUE or body.get(FIELD) is True


def engine_part(turn: ReqTurn) -> dict[str, Any]:
    """What the scheduler knows of a turn that is over; nothing of one that never started."""
    if turn.prefill_s is None:
        return {}
    told: dict[str, Any] = {"queue_wait_s": turn.prefill_s - turn.queued_s, "queue_reason": turn.waited_for}
    return told if turn.resumption is None else told | turn.resumption._asdict()


def add(turn: ServerTurn, response: Any) -> None:
    """Put it into a response on its way to the client, where that is the last of an answer."""
    for output in response if isinstance(response, list) else [response]:
        meta = output.get("meta_info") if isinstance(output, dict) else None
        if not meta or not meta.get("finish_reason"):
            continue
        meta[KEY] = {
            "program": turn.identity.program,
            "continuation": turn.continuation,
            "cached_tokens": meta.get("cached_tokens"),
            **_NOT_STARTED,
            **meta.get(KEY, {}),
            "gate_wait_s": turn.gate_wait_s,
            "gate_reason": turn.gate_reason,
            "retractions": meta.get("num_retractions"),
            "dp_rank": meta.get("dp_rank"),
        }
