"""The server process's side: whose turn a request is, and whether its program may start.

Every endpoint, and ``Engine`` without HTTP, goes through ``TokenizerManager.generate_request``.
"""

import logging
import uuid
from collections.abc import Mapping
from contextlib import aclosing, suppress
from typing import Any

from sglang.srt.managers.io_struct import GenerateReqInput
from sglang.srt.managers.tokenizer_manager import TokenizerManager

from mars_sglang import clock
from mars_sglang.config import ADMISSION_OFF, MarsConfig
from mars_sglang.core.gate import Gate
from mars_sglang.core.policy import admission_policy
from mars_sglang.core.program import ProgramTable
from mars_sglang.engine import wire
from mars_sglang.engine.admission_gate import AdmissionGate
from mars_sglang.engine.identity import Identity, identify
from mars_sglang.engine.seams import SeamError

logger = logging.getLogger(__name__)

#: Characters per token assumed for a prompt that reaches the gate as text; its real length
#: is known when its turn ends.
CHARACTERS_PER_TOKEN = 3


class MarsTokenizerManager(TokenizerManager):
    """Marks requests with their program and takes them through the gate.

    Inert where no configuration of ours is set: an ``Engine`` made without our arguments
    beside one made with them.
    """

    mars_gate: AdmissionGate | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.mars_config = MarsConfig.from_env()
        self.mars_programs = ProgramTable()

    def open_mars_gate(self, capacity_tokens: int) -> None:
        """Start admitting by footprint; called once the engine told its pool's size."""
        if self.mars_config is None or self.mars_config.admission == ADMISSION_OFF:
            return
        self.mars_gate = AdmissionGate(Gate(admission_policy(self.mars_config.admission), capacity_tokens))
        logger.info("mars-sglang: admission %s over %d KV tokens", self.mars_config.admission, capacity_tokens)

    async def generate_request(self, obj, request=None):
        # aclosing: a client that goes away closes this generator, and SGLang's own clean-up
        # has to happen then and not when the inner generator is collected.
        active = self.mars_config is not None and isinstance(obj, GenerateReqInput)
        identity = await self._mars_identify(obj, request) if active else Identity(None)
        arrived_s = clock.now()
        if self.mars_gate is None or not active:
            if active:
                self._mars_mark(obj, identity, arrived_s)
            async with aclosing(super().generate_request(obj, request)) as responses:
                async for response in responses:
                    yield response
            return

        turn_id = obj.rid if isinstance(obj.rid, str) else uuid.uuid4().hex
        response = None
        try:
            await self.mars_gate.enter(
                identity.program,
                turn_id,
                prompt_tokens(obj),
                request.is_disconnected if request is not None and not obj.background else None,
            )
            # Marked after the wait: it carries who is paused now.
            self._mars_mark(obj, identity, arrived_s)
            async with aclosing(super().generate_request(obj, request)) as responses:
                async for response in responses:
                    yield response
        finally:
            # Counted once, from the last response, and not for each streamed one.
            self.mars_gate.leave(identity.program, turn_id, _context_tokens(response), identity.last)

    def abort_request(self, rid: str = "", abort_all: bool = False):
        if self.mars_gate is not None and (abort_all or rid):
            self.mars_gate.abort(None if abort_all else rid)
        super().abort_request(rid=rid, abort_all=abort_all)

    async def _mars_identify(self, obj: GenerateReqInput, request) -> Identity:
        body = {"session_id": obj.session_id} if obj.session_id else {}
        if request is None:
            return identify(body, {})
        if hasattr(request, "json"):  # SGLang's gRPC bridge passes headers alone
            # Starlette keeps the parsed body, so this is a look-up and not a second parse.
            with suppress(ValueError):  # a multipart upload, say; it may still carry a header
                body = await request.json()
        return identify(body if isinstance(body, Mapping) else {}, request.headers)

    def _mars_mark(self, obj: GenerateReqInput, identity: Identity, arrived_s: float) -> None:
        program_arrived_s = arrived_s
        if identity.program is not None:
            program_arrived_s = self.mars_programs.touch(identity.program, arrived_s).arrived_s
        paused = self.mars_gate.paused() if self.mars_gate is not None else ()
        turn = wire.WireTurn(identity.program, arrived_s, program_arrived_s, paused)
        obj.sampling_params = wire.put_all(obj.sampling_params, turn)


def prompt_tokens(obj: GenerateReqInput) -> int:
    """Prompt length in tokens, exact where the endpoint has tokenized it, else estimated from text."""
    if obj.input_ids:
        first = obj.input_ids[0]
        return len(obj.input_ids) if isinstance(first, int) else sum(len(ids) for ids in obj.input_ids)
    texts = [obj.text] if isinstance(obj.text, str) else (obj.text or [])
    return sum(len(text) for text in texts) // CHARACTERS_PER_TOKEN + 1


def _context_tokens(response: Any) -> int | None:
    """Prompt plus output tokens of a response; of all of them for a batch."""
    outputs = response if isinstance(response, list) else [response]
    metas = [output.get("meta_info") or {} for output in outputs if isinstance(output, dict)]
    return sum(meta.get("prompt_tokens", 0) + meta.get("completion_tokens", 0) for meta in metas) or None


def launch_with_gate(original, cls, server_args, *args, **kwargs):
    """Around ``Engine._launch_subprocesses``: the engine is up and told the size of its pool.

    Raises:
        SeamError: the scheduler that came up is not ours although it was asked for.
    """
    launched = original(cls, server_args, *args, **kwargs)
    config = MarsConfig.from_env()
    if config is None:
        return launched
    tokenizer_manager, scheduler_infos = launched[0], launched[3].scheduler_infos
    if not scheduler_infos or "max_total_num_tokens" not in scheduler_infos[0]:
        return launched  # a node without a scheduler of its own
    data_parallel = server_args.dp_size or 1
    # A data-parallel controller stands between, and passes on only what it knows.
    if (
        config.turn_policy is not None
        and data_parallel == 1
        and any(info.get("mars", {}).get("turn_policy") != config.turn_policy for info in scheduler_infos)
    ):
        raise SeamError(
            f"--scheduler-policy {config.turn_policy} was asked for, but the scheduler process runs "
            "another scheduler class: a hook did not land there. SGLANG_PLUGINS=mars_sglang loads this plugin alone"
        )
    if isinstance(tokenizer_manager, MarsTokenizerManager):
        # Tensor-parallel ranks hold slices of one pool, data-parallel ones a pool each.
        pool_tokens = min(info["max_total_num_tokens"] for info in scheduler_infos)
        tokenizer_manager.open_mars_gate(pool_tokens * data_parallel)
    return launched
