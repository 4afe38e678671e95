"""SGLang's output streamer, which also sends what the scheduler knows of a turn to the client that asked."""

from typing import Any

from sglang.srt.managers.scheduler_components.output_streamer import SchedulerOutputStreamer

from mars_sglang.engine.turns import ReqTurn
from mars_sglang.engine.wire import TURN_KEY


class MarsOutputStreamer(SchedulerOutputStreamer):
    """Adds to a batch of outputs, and only where an answer to one that asked ends in it."""

    has_additional_customized_info = True

    def build_additional_customized_info(self, reqs: list[Any]) -> dict[str, list]:
        told = [_told(req.mars) if req.finished() and _asked(req) else None for req in reqs]
        return {TURN_KEY: told} if any(told) else {}


def _asked(req: Any) -> bool:
    # A request that SGLang refused before it was queued may have no turn.
    turn = getattr(req, "mars", None)
    return turn is not None and turn.info


def _told(turn: ReqTurn) -> dict[str, Any]:
    """Part of what :mod:`mars_sglang.engine.turn_info` makes; nothing of a turn that never started."""
    if turn.prefill_s is None:
        return {}
    told: dict[str, Any] = {"queue_wait_s": turn.prefill_s - turn.queued_s, "queue_reason": turn.waited_for}
    return told if turn.resumption is None else told | turn.resumption._asdict()
