"""Registers our classes with SGLang's hook registry, applies them, and looks whether they landed."""

import pkgutil
import sys

from sglang.srt.plugins.hook_registry import HookRegistry, HookType

from mars_sglang.config import MarsConfig
from mars_sglang.engine import seams

_TOKENIZER_MODULE = "sglang.srt.managers.tokenizer_manager"
_SCHEDULER_MODULE = "sglang.srt.managers.scheduler"
_CONTROLLER_MODULE = "sglang.srt.managers.data_parallel_controller"

_installed: set[str] = set()


def install_or_exit(config: MarsConfig, *, launches: bool) -> None:
    """Make this process's SGLang ours, or end the process with a message; as :func:`install`.

    SGLang logs an exception of a plugin and serves on; only leaving the process tells the
    operator that what was asked for does not work.
    """
    try:
        install(config, launches=launches)
    except Exception as error:
        print(f"mars-sglang: error: cannot start: {error}", file=sys.stderr, flush=True)
        raise SystemExit(3) from error


def install(config: MarsConfig, *, launches: bool) -> None:
    """Hook the classes that this process has use for. Doing it twice changes nothing.

    Args:
        launches: this process parsed the arguments and launches the server. It checks every
            seam and hooks everything. The others hook what they have imported: a detokenizer
            that loaded the scheduler's modules only to patch them would cost seconds and
            hundreds of megabytes.

    Raises:
        seams.SeamError: SGLang's version or a seam does not fit, or a hook did not land.
    """
    if launches:
        seams.require()
    if launches or _TOKENIZER_MODULE in sys.modules:
        from mars_sglang.engine.tokenizer_manager import MarsTokenizerManager, launch_with_gate

        _replace(f"{_TOKENIZER_MODULE}.TokenizerManager", MarsTokenizerManager)
        if launches:
            _around("sglang.srt.entrypoints.engine.Engine._launch_subprocesses", launch_with_gate)
    if config.turn_policy is not None and (launches or _SCHEDULER_MODULE in sys.modules):
        from mars_sglang.engine.data_parallel import tell_of_ranks
        from mars_sglang.engine.radix_cache import register_backend
        from mars_sglang.engine.scheduler import ASKS_FOR_VICTIMS, MarsScheduler, decode_retraction_order

        register_backend()
        registry = seams.scheduler_registry()
        if registry is None:
            _replace(f"{_SCHEDULER_MODULE}.Scheduler", MarsScheduler)
        elif config.turn_policy not in registry.registered_schedule_policies():
            registry.register_scheduler_class(config.turn_policy, MarsScheduler)
        if launches or _CONTROLLER_MODULE in sys.modules:
            _around(f"{_CONTROLLER_MODULE}.DataParallelController.get_init_info", tell_of_ranks)
        if not ASKS_FOR_VICTIMS:
            _around(
                "sglang.srt.managers.schedule_batch.ScheduleBatch._get_decode_retraction_order",
                decode_retraction_order,
            )


def _replace(target: str, cls: type) -> None:
    _apply(target, cls, HookType.REPLACE, lambda found: found is cls)


def _around(target: str, function) -> None:
    # An applied AROUND hook is a wrapper that remembers what it wraps.
    _apply(target, function, HookType.AROUND, lambda found: hasattr(found, "__wrapped__"))


def _apply(target: str, hook, hook_type: HookType, landed) -> None:
    if target in _installed:
        return
    HookRegistry.register(target, hook, hook_type)
    HookRegistry.apply_hooks()
    if not landed(pkgutil.resolve_name(target)):
        raise seams.SeamError(
            f"the hook on {target} did not land: expected {hook!r}, found {pkgutil.resolve_name(target)!r}. "
            "Another plugin may have replaced it; SGLANG_PLUGINS=mars_sglang loads this one alone"
        )
    _installed.add(target)
