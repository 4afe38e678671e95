"""What the server process knows of one turn, from its request and its responses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sglang.srt.managers.io_struct import GenerateReqInput

from mars_sglang.engine.admission_gate import TurnAborted
from mars_sglang.engine.identity import Identity
from mars_sglang.engine.refusals import AdmissionRefused
from mars_sglang.engine.tool_names import ParsedAnswer

#: Characters per token assumed for a prompt that reaches the gate as text; its real length
#: is known when its turn ends.
CHARACTERS_PER_TOKEN = 3


@dataclass(slots=True)
class ServerTurn:
    """A turn between its arrival and its end."""

    turn_id: str
    identity: Identity
    arrived_s: float
    prompt_tokens: int
    body: Mapping[str, Any]
    response: Any = None
    """The last one; what is streamed before it is part of it."""
    text: list[str] | None = None
    """Pieces of the answer, where the server streams only what is new."""
    parsed: ParsedAnswer | None = None
    failure: BaseException | None = None
    held: bool = False
    """Whether it waits for an admission ticket, or did."""
    continuation: bool = False
    """Whether an earlier turn of its program has ended."""
    gate_wait_s: float = 0.0
    """How long it waited for admission, in seconds of our clock."""
    gate_reason: str | None = None
    """Why it went on from there: the decision's reason, or that of :class:`mars_sglang.stream.events.TurnPassed`."""
    info: bool = False
    """Its client asked what became of it."""
    deadline_s: float | None = None
    """Real seconds that its client lets it wait."""

    def hear(self, response: Any) -> None:
        self.response = response
        if self.text is not None and isinstance(response, dict):
            self.text.append(response.get("text") or "")

    def gated(self) -> str | None:
        """The program for which this turn is scheduled; None for one that is served as SGLang would."""
        return self.identity.program if self.identity.gated else None

    def answered(self) -> bool:
        """Whether this was the last response."""
        outputs = self.response if isinstance(self.response, list) else [self.response]
        return all(isinstance(one, dict) and (one.get("meta_info") or {}).get("finish_reason") for one in outputs)

    def answer(self) -> str:
        """Text of the answer so far; of the first where several were asked for."""
        if self.text is not None:
            return "".join(self.text)
        outputs = self.response if isinstance(self.response, list) else [self.response]
        return (outputs[0].get("text") or "") if outputs and isinstance(outputs[0], dict) else ""

    def meta(self) -> dict[str, Any]:
        """Token counts (summed over several answers) and the finish reason, empty before the first response."""
        outputs = self.response if isinstance(self.response, list) else [self.response]
        metas = [output.get("meta_info") or {} for output in outputs if isinstance(output, dict)]
        if not metas:
            return {}
        total = dict(metas[-1])
        for field in ("prompt_tokens", "completion_tokens", "cached_tokens"):
            total[field] = sum(meta.get(field) or 0 for meta in metas)
        return total

    def finish_reason(self, meta: Mapping[str, Any]) -> str:
        """As :attr:`mars_sglang.stream.events.TurnEnded.finish_reason`; ``meta`` is what :meth:`meta` said."""
        reason = meta.get("finish_reason")
        if isinstance(reason, Mapping):
            return str(reason.get("type") or "")
        if reason:
            return str(reason)
        if isinstance(self.failure, TurnAborted):
            return "abort"
        if isinstance(self.failure, AdmissionRefused):
            return "refused"
        return "error" if isinstance(self.failure, Exception) else "gone"


def prompt_tokens(obj: GenerateReqInput) -> int:
    """Prompt length in tokens, exact where the endpoint has tokenized it, else estimated from text."""
    if obj.input_ids:
        first = obj.input_ids[0]
        return len(obj.input_ids) if isinstance(first, int) else sum(len(ids) for ids in obj.input_ids)
    texts = [obj.text] if isinstance(obj.text, str) else (obj.text or [])
    return sum(len(text) for text in texts) // CHARACTERS_PER_TOKEN + 1


def max_output_tokens(obj: GenerateReqInput) -> int:
    """The answer's bound that the client gave; 0 where it gave none."""
    params = obj.sampling_params
    if isinstance(params, list):
        return sum((one or {}).get("max_new_tokens") or 0 for one in params)
    return (params or {}).get("max_new_tokens") or 0
