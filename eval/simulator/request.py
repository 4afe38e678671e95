"""A turn inside the simulated engine, and the views of it that policies see."""

from __future__ import annotations

from eval.simulator.cache import Node
from eval.simulator.text import Text
from mars_sglang.core.views import RunningView, TurnView

#: SGLang reserves room for no more answer tokens than this (``SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION``).
CLIP_NEW_TOKENS = 4096


class Request:
    """One turn, from its arrival at the engine to its last token. Tokens count from the start of the prompt."""

    __slots__ = (
        "arrived_s",
        "best_node",
        "cached_tokens",
        "continuation",
        "first_token_s",
        "hint",
        "host_hit",
        "last",
        "last_node",
        "locked_node",
        "matched",
        "matched_tokens",
        "number",
        "out_tokens",
        "output",
        "owned",
        "pause_s",
        "prefill_s",
        "prefix",
        "program",
        "program_arrived_s",
        "prompt_tokens",
        "protected",
        "queue_mark",
        "queued_s",
        "retracted_s",
        "retractions",
        "scheduled_upto",
        "text",
        "tool",
        "turn_id",
        "view",
    )  # fmt: skip

    def __init__(
        self, program: str, number: int, text: Text, prompt_tokens: int, out_tokens: int, arrived_s: float,
        program_arrived_s: float, hint: Node,
    ) -> None:  # fmt: skip
        self.program = program
        self.number = number
        self.turn_id = f"{program}/{number}"
        self.view: TurnView | None = None
        self.text = text
        """Prompt and whole answer."""
        self.prompt_tokens = prompt_tokens
        self.out_tokens = out_tokens
        self.arrived_s = arrived_s
        """At the server, before the gate."""
        self.program_arrived_s = program_arrived_s
        self.hint = hint
        """A node that the text is known to run through."""
        self.continuation = False
        self.pause_s: float | None = None
        self.tool: str | None = None
        """What its answer calls."""
        self.queued_s = 0.0
        self.queue_mark = 0
        """Tokens that the engine had prefilled when this was queued."""
        self.prefill_s: float | None = None
        self.retracted_s: float | None = None
        self.retractions = 0
        self.first_token_s: float | None = None
        self.output = 0
        """Answer tokens so far."""
        self.last = False
        """The client says that its program is over with it."""
        self.matched = False
        """Whether it was looked up since it was queued."""
        self.matched_tokens = 0
        self.prefix = 0
        """Tokens with KV: cached, then computed."""
        self.host_hit = 0
        self.last_node = self.best_node = hint
        self.locked_node: Node | None = None
        self.protected = 0
        """Tokens whose KV belongs to the tree."""
        self.owned = 0
        """Tokens of KV beyond those."""
        self.scheduled_upto = 0
        """Where the chunk ends that runs now."""
        self.cached_tokens: int | None = None

    @property
    def context(self) -> int:
        """Prompt and answer so far."""
        return self.prompt_tokens + self.output

    @property
    def finished(self) -> bool:
        return self.output >= self.out_tokens

    @property
    def to_come(self) -> int:
        """Answer tokens for which room is reserved.

        The replayer's requests ignore the end token, so SGLang counts them in full and not by its estimate
        (``new_token_ratio``), whose decay is therefore not modelled.
        """
        return min(self.out_tokens - self.output, CLIP_NEW_TOKENS)

    def waiting_view(self) -> TurnView:
        """As a policy sees it; the same object until it is looked up again, for most of a long queue is not."""
        if self.view is None:
            self.view = self._waiting_view()
        return self.view

    def _waiting_view(self) -> TurnView:
        return TurnView(
            turn_id=self.turn_id,
            program=self.program,
            uncached_tokens=max(1, self.context - self.matched_tokens),
            context_tokens=self.context,
            arrived_s=self.arrived_s,
            continuation=self.continuation,
            program_arrived_s=self.program_arrived_s,
            started=self.prefill_s is not None and self.retracted_s is None,
        )

    def running_view(self) -> RunningView:
        return RunningView(
            turn_id=self.turn_id,
            program=self.program,
            context_tokens=self.context,
            output_tokens=self.output,
            arrived_s=self.arrived_s,
            program_arrived_s=self.program_arrived_s,
            retractions=self.retractions,
        )
