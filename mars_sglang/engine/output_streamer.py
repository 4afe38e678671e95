"""SGLang's output streamer, which also sends what the scheduler knows of a turn to the client that asked."""

from typing import Any

from sglang.srt.managers.scheduler_components.output_streamer import SchedulerOutputStreamer

from mars_sglang.engine import turn_info


class MarsOutputStreamer(SchedulerOutputStreamer):
    """Adds to a batch of outputs, and only where an answer of one that asked ends in it."""

    has_additional_customized_info = True

    def build_additional_customized_info(self, reqs: list[Any]) -> dict[str, list]:
        told = [turn_info.engine_part(req.mars) if req.finished() and _asked(req) else None for req in reqs]
        return {turn_info.KEY: told} if any(told) else {}


def _asked(req: Any) -> bool:
    # A request that SGLang refused before it was queued may have no turn.
    turn = getattr(req, "mars", None)
    return turn is not None and turn.info
