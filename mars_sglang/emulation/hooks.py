"""Hooks on SGLang's scheduler that exist only while emulating."""

import logging
import pkgutil
import time

from mars_sglang.emulation.dictation import TEXT_PARAM
from mars_sglang.emulation.host_tier import tokens_of
from mars_sglang.emulation.process import emulated_gpu
from mars_sglang.emulation.script import scripts_of_server

logger = logging.getLogger(__name__)

_SCHEDULER = "sglang.srt.managers.scheduler.Scheduler"

#: Every request of every endpoint passes here once, one at a time, as text or as tokens.
_TOKENIZED = "sglang.srt.managers.tokenizer_manager.TokenizerManager._create_tokenized_object"

#: SGLang's idle loop spins, which on two cores slows down everyone who could end the idleness.
#: (``--sleep-on-idle`` would wait for requests only, deaf to what a plugin listens to.)
_IDLE_SLEEP_S = 0.0005

_LOAD = "sglang.srt.mem_cache.l2_transfer.L2TransferEngine.submit_host_to_device"
_HOOKED = ("handle_generate_request", "get_internal_state", "on_idle", "flush_cache")


def register() -> None:
    """Register with SGLang, which applies the hooks once all plugins are loaded."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(f"{_SCHEDULER}.handle_generate_request", _dictate, HookType.BEFORE)
    HookRegistry.register(f"{_SCHEDULER}.get_internal_state", _add_report, HookType.AFTER)
    HookRegistry.register(f"{_SCHEDULER}.on_idle", _note_idle, HookType.BEFORE)
    HookRegistry.register(f"{_SCHEDULER}.flush_cache", _forget_steps, HookType.AFTER)
    HookRegistry.register(_LOAD, _time_host_load, HookType.BEFORE)
    if scripts_of_server() is not None:
        HookRegistry.register(_TOKENIZED, _follow_script, HookType.BEFORE)


def require_applied() -> None:
    """SGLang only logs a hook that failed; an emulation without them would lie about time.

    Raises:
        RuntimeError: a hook did not land.
    """
    scripted = () if scripts_of_server() is None else (_TOKENIZED,)
    for target in (*(f"{_SCHEDULER}.{name}" for name in _HOOKED), _LOAD, *scripted):
        if not hasattr(pkgutil.resolve_name(target), "__wrapped__"):
            raise RuntimeError(
                f"the emulation's hook on {target} did not land; is SGLANG_PLUGINS set without mars_sglang, "
                "or is this an SGLang version other than the supported one?"
            )


def _dictate(scheduler, recv_req, *args, **kwargs) -> None:
    params = recv_req.sampling_params.custom_params
    if not isinstance(params, dict) or TEXT_PARAM not in params:
        return
    text = params[TEXT_PARAM]
    if not isinstance(text, str) or scheduler.tokenizer is None:
        logger.warning("%s of request %s is ignored: it must be a string, on a server with a tokenizer", TEXT_PARAM,
                       recv_req.rid)  # fmt: skip
        return
    token_ids = scheduler.tokenizer.encode(text, add_special_tokens=False)
    emulated_gpu().dictation.put(recv_req.rid, len(recv_req.input_ids), token_ids)


def _follow_script(tokenizer_manager, obj, input_text, input_ids, *args, **kwargs) -> None:
    """Dictate the next step of the script that a prompt names; a text that the request dictates itself wins."""
    custom = obj.sampling_params.get("custom_params") or {}
    if not isinstance(custom, dict) or TEXT_PARAM in custom:
        return
    if not input_text:
        input_text = tokenizer_manager.tokenizer.decode(input_ids or [])
    text = scripts_of_server().answer(input_text)
    if text is not None:
        obj.sampling_params = obj.sampling_params | {"custom_params": custom | {TEXT_PARAM: text}}


def _add_report(result, scheduler, *args, **kwargs) -> None:
    result.internal_state["emulation"] = emulated_gpu().report()


def _note_idle(scheduler, *args, **kwargs) -> None:
    emulated_gpu().pacer.idle()
    time.sleep(_IDLE_SLEEP_S)


def _forget_steps(flushed, scheduler, *args, **kwargs) -> None:
    """A benchmark flushes the cache before it measures; the report is then of what follows."""
    if flushed:
        emulated_gpu().pacer.reset()


def _time_host_load(engine, transfers, *args, **kwargs) -> None:
    emulated_gpu().load_from_host(tokens_of(transfers))
