"""The server process's side of every request: SGLang's ``TokenizerManager`` with our turns around it.

Every endpoint, and ``Engine`` without HTTP, goes through ``TokenizerManager.generate_request``.
"""

import logging
from collections.abc import Mapping
from contextlib import aclosing, suppress
from typing import Any

from sglang.srt.constants import HEALTH_CHECK_RID_PREFIX
from sglang.srt.managers.io_struct import GenerateReqInput
from sglang.srt.managers.tokenizer_manager import TokenizerManager
from sglang.srt.runtime_context import get_parallel

from mars_sglang.config import ADMISSION_OFF, MarsConfig
from mars_sglang.engine import wire
from mars_sglang.engine.refusals import answer_refusals, refusable
from mars_sglang.engine.seams import SeamError
from mars_sglang.engine.server_turns import HostSettings, ServerTurns
from mars_sglang.engine.state_page import add_routes

logger = logging.getLogger(__name__)


class MarsTokenizerManager(TokenizerManager):
    """Marks requests with their program and takes them through the gate.

    Inert where no configuration of ours is set: an ``Engine`` made without our arguments
    beside one made with them.
    """

    mars_turns: ServerTurns | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        config = MarsConfig.from_env()
        if config is not None:
            host = HostSettings(
                tool_call_parser=self.server_args.tool_call_parser,
                reasoning_parser=self.server_args.reasoning_parser,
                incremental=self.incremental_streaming_output,
                priorities=self.server_args.enable_priority_scheduling,
                metrics=self.server_args.enable_metrics,
                ranks=_placed_ranks(config, self.server_args),
            )
            self.mars_turns = ServerTurns(config, host)

    async def generate_request(self, obj, request=None):
        # aclosing: a client that goes away closes this generator, and SGLang's own clean-up
        # has to happen then and not when the inner generator is collected.
        turns = self.mars_turns
        if turns is None or not isinstance(obj, GenerateReqInput) or _is_health_check(obj):
            async with aclosing(super().generate_request(obj, request)) as responses:
                async for response in responses:
                    yield response
            return

        turns.watch()
        body = await _body(request) or _without_http(obj)
        if obj.session_id:
            body = {"session_id": obj.session_id, **body}
        headers = request.headers if request is not None else {}
        turn = None
        try:
            async with refusable(request):
                turn = turns.arrive(obj, body, headers)
                watched = request is not None and not obj.background
                await turns.admit(turn, request.is_disconnected if watched else None)
            # Marked after the wait: it carries who is paused now.
            turns.mark(obj, turn)
            async with aclosing(super().generate_request(obj, request)) as responses:
                async for response in responses:
                    await turns.hear(turn, response)
                    yield response
        except BaseException as failure:
            if turn is not None:
                turn.failure = failure
            raise
        finally:
            # Also where the client is gone before the beginning of its stream could be sent.
            if turn is not None:
                turns.end(turn)

    def update_request_meta_info(self, meta_info, state, customized_info, index, finish_reason):
        # SGLang takes every value for a list with an item per token.
        told = customized_info.get(wire.TURN_KEY)
        if told is not None:
            customized_info = {key: values for key, values in customized_info.items() if key != wire.TURN_KEY}
            if told[index]:
                meta_info[wire.TURN_KEY] = told[index]
        super().update_request_meta_info(meta_info, state, customized_info, index, finish_reason)

    def abort_request(self, rid: str = "", abort_all: bool = False):
        if self.mars_turns is not None and self.mars_turns.gate is not None and (abort_all or rid):
            self.mars_turns.gate.abort(None if abort_all else rid)
        super().abort_request(rid=rid, abort_all=abort_all)

    async def close_session(self, obj, request=None):
        if self.mars_turns is not None:
            headers = request.headers if request is not None else {}
            self.mars_turns.program_over(self.mars_turns.scoped(obj.session_id, headers), "closed")
        await super().close_session(obj, request)


def _is_health_check(obj: GenerateReqInput) -> bool:
    return isinstance(obj.rid, str) and obj.rid.startswith(HEALTH_CHECK_RID_PREFIX)


async def _body(request) -> Mapping[str, Any]:
    """The request's JSON; empty where there is none."""
    if not hasattr(request, "json"):  # Engine, or SGLang's gRPC bridge, which passes headers alone
        return {}
    # Starlette keeps the parsed body, so this is a look-up and not a second parse.
    with suppress(ValueError):  # a multipart upload, say; it may still carry a header
        body = await request.json()
        if isinstance(body, Mapping):
            return body
    return {}


def _without_http(obj: GenerateReqInput) -> Mapping[str, Any]:
    """What stands for the body where there is none: the prompt, and SGLang's field for what it does not know itself."""
    params = obj.sampling_params
    said = params.get("custom_params") if isinstance(params, Mapping) else None
    return {**(said if isinstance(said, Mapping) else {}), "text": obj.text, "input_ids": obj.input_ids}


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
    if config.turn_policy is not None and any(
        info.get("mars", {}).get("turn_policy") != config.turn_policy for info in scheduler_infos
    ):
        raise SeamError(
            f"--scheduler-policy {config.turn_policy} was asked for, but the scheduler process runs "
            "another scheduler class: a hook did not land there. SGLANG_PLUGINS=mars_sglang loads this plugin alone"
        )
    if isinstance(tokenizer_manager, MarsTokenizerManager):
        turns = tokenizer_manager.mars_turns
        turns.open_stream()
        # Tensor-parallel ranks hold slices of one pool, data-parallel ones a pool each.
        pool_tokens = min(info["max_total_num_tokens"] for info in scheduler_infos)
        turns.open_gate(
            pool_tokens * get_parallel().num_dp_ranks,
            *_host_tier(server_args, scheduler_infos, pool_tokens),
            engine_keeps=all(info.get("mars", {}).get("keeps_kv", False) for info in scheduler_infos),
        )
        turns.meet_control()
        add_routes(turns)
        answer_refusals()
    return launched


def _placed_ranks(config: MarsConfig, server_args) -> int:
    """As :attr:`HostSettings.ranks`."""
    if config.turn_policy is None and config.admission == ADMISSION_OFF:
        return 1
    # Its ranks come and go, and a request for one that is gone ends the controller that dispatches.
    return 1 if server_args.elastic_ep_backend is not None else get_parallel().num_dp_ranks


def _host_tier(server_args, scheduler_infos: list[dict[str, Any]], pool_tokens: int) -> tuple[int, bool]:
    """KV tokens of the host tier of all data-parallel ranks, 0 where there is none or nobody says; and whether it holds
    copies."""
    if not server_args.enable_hierarchical_cache:
        return 0, True
    ranks = get_parallel().num_dp_ranks
    copies = server_args.hicache_write_policy != "write_back"
    told = [info.get("mars", {}).get("host_tokens") for info in scheduler_infos]
    if all(tokens is not None for tokens in told):
        return min(told) * ranks, copies
    if server_args.hicache_size or not server_args.hicache_ratio:
        logger.warning(
            "mars-sglang: how many tokens --hicache-size %s holds is known to our scheduler alone, so admission counts "
            "the GPU's memory alone; --hicache-ratio or --scheduler-policy mars changes that",
            server_args.hicache_size,
        )
        return 0, copies
    return int(pool_tokens * server_args.hicache_ratio) * ranks, copies
