"""The parts of SGLang that MARS relies on, and whether this SGLang has them.

Checked before a hook is registered and again after it should have landed. A plugin that
was asked for may not run half: SGLang itself logs a failed hook and serves on without it.
"""

import importlib
import importlib.metadata
import inspect
import pkgutil
from dataclasses import dataclass

#: Releases of SGLang that the tests ran against.
TESTED_SGLANG = ("0.5.23",)

_SCHEDULER = "sglang.srt.managers.scheduler.Scheduler"
_POLICY = "sglang.srt.managers.schedule_policy"
_TREE = "sglang.srt.mem_cache.unified_radix_cache.UnifiedRadixCache"
_TOKENIZER = "sglang.srt.managers.tokenizer_manager.TokenizerManager"


class SeamError(RuntimeError):
    """SGLang is not what MARS expects; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Seam:
    """A class, function or method of SGLang, with the parameters that we pass or override."""

    target: str
    parameters: tuple[str, ...] = ()
    why: str = ""


SEAMS = (
    Seam("sglang.srt.server_args.ServerArgs.add_cli_args", ("parser",), "adds --scheduler-policy"),
    Seam("sglang.srt.server_args.ServerArgs.from_cli_args", ("args",), "reads --scheduler-policy"),
    Seam("sglang.srt.entrypoints.engine.Engine.server_args_class", (), "Engine(scheduler_policy=...)"),
    Seam("sglang.srt.entrypoints.engine.Engine._launch_subprocesses", ("server_args",), "pool size for the gate"),
    Seam(f"{_TOKENIZER}.generate_request", ("self", "obj", "request"), "identity and gate of every endpoint"),
    Seam(f"{_TOKENIZER}.abort_request", ("self", "rid", "abort_all"), "aborts of turns held at the gate"),
    Seam(
        f"{_TOKENIZER}.update_request_meta_info",
        ("self", "meta_info", "state", "customized_info", "index", "finish_reason"),
        "what a response says of its turn",
    ),
    Seam(f"{_TOKENIZER}.close_session", ("self", "obj", "request"), "end of a program"),
    Seam("sglang.srt.entrypoints.http_server.app", (), "/mars/state"),
    Seam(
        "sglang.srt.function_call.function_call_parser.FunctionCallParser.parse_non_stream",
        ("self", "full_text"),
        "names of called tools",
    ),
    Seam(
        "sglang.srt.parser.reasoning_parser.ReasoningParser.parse_non_stream",
        ("self", "full_text"),
        "names of called tools",
    ),
    Seam(f"{_SCHEDULER}.init_schedule_policy", ("self",), "turn order"),
    Seam(f"{_SCHEDULER}._create_generation_req", ("self", "recv_req", "args", "kwargs"), "program of a request"),
    Seam(f"{_SCHEDULER}._add_request_to_queue", ("self", "req", "is_retracted"), "arrivals and retractions"),
    Seam(f"{_SCHEDULER}._release_aborted_request", ("self", "req"), "turns that are given up while they wait"),
    Seam(f"{_SCHEDULER}.get_new_batch_prefill", ("self", "running_batch"), "passing a turn that does not fit"),
    Seam(f"{_SCHEDULER}.get_prefill_adder_class", ("self",), "prefill adder"),
    Seam(f"{_SCHEDULER}.get_output_streamer_class", ("self",), "what a response says of its turn"),
    Seam(
        "sglang.srt.managers.scheduler_components.output_streamer.SchedulerOutputStreamer"
        ".build_additional_customized_info",
        ("self", "reqs"),
        "what a response says of its turn",
    ),
    Seam(f"{_SCHEDULER}.init_metrics_collector", ("self",), "labels of our metrics"),
    Seam(f"{_SCHEDULER}._poll_timeout_aborts", ("self",), "rank 0's clock, broadcast with the requests"),
    Seam(f"{_SCHEDULER}.process_input_requests", ("self", "recv_reqs"), "rank 0's clock, received"),
    Seam(f"{_SCHEDULER}.run_batch", ("self", "batch"), "how long prefills take"),
    Seam(f"{_SCHEDULER}.process_batch_result", ("self", "batch", "result"), "first tokens"),
    Seam(f"{_SCHEDULER}.get_init_info", ("self",), "tells the parent that the scheduler is ours"),
    Seam(f"{_SCHEDULER}.get_internal_state", ("self", "recv_req"), "counters in /server_info"),
    Seam(f"{_POLICY}.SchedulePolicy.calc_priority", ("self", "waiting_queue", "running_batch"), "turn order"),
    Seam(
        f"{_POLICY}.SchedulePolicy.shortest_prefill_chunk_limit",
        ("self", "chunked_req", "waiting_queue", "budget", "page_size"),
        "chunks no longer than a turn's quantum",
    ),
    Seam(f"{_POLICY}.PrefillAdder.add_one_req", ("self", "req", "has_chunked_req"), "prefill adder"),
    Seam(f"{_POLICY}.match_kv_cache", ("req", "tree_cache"), "uncached remainder"),
    Seam(
        "sglang.srt.managers.schedule_batch.ScheduleBatch._get_decode_retraction_order",
        ("reqs",),
        "victims of retraction",
    ),
    Seam(
        "sglang.srt.managers.data_parallel_controller.DataParallelController.get_init_info",
        ("self",),
        "tells the parent that the schedulers of all ranks are ours",
    ),
    Seam("sglang.srt.managers.io_struct.GenerateReqInput.routed_dp_rank", (), "a program stays on its rank"),
    Seam("sglang.srt.mem_cache.registry.register_radix_cache_backend", ("name", "factory"), "radix cache"),
    Seam("sglang.srt.mem_cache.registry.create_unified_radix_cache", ("ctx", "cache_class"), "radix cache"),
    Seam(f"{_TREE}.on_release", ("self", "req", "checkpointed"), "end of a turn"),
    Seam(f"{_TREE}.reset", ("self",), "flush_cache"),
    Seam(f"{_TREE}.lock", ("self", "node_id"), "pins of policies that pin"),
    Seam(f"{_TREE}.unlock", ("self", "lock"), "pins of policies that pin"),
    Seam(
        f"{_TREE}._evict_components",
        ("self", "request_by_type", "tracker", "available_size_targets", "allocation_reclaim_satisfied"),
        "order of reclaiming",
    ),
    Seam(f"{_TREE}._evict_device_leaf", ("self", "node_id", "tracker"), "order of reclaiming"),
    Seam(f"{_TREE}._demote", ("self", "node_id", "tracker"), "contexts that moved to the host tier"),
    Seam(f"{_TREE}._drop_subtree_no_host", ("self", "node_id", "tracker"), "contexts dropped under host pressure"),
    Seam(f"{_TREE}._component_available_size", ("self", "component_type"), "order of reclaiming"),
)


def scheduler_registry():
    """SGLang's registry of scheduler classes where it has one (see patches/), else None."""
    try:
        return importlib.import_module("sglang.srt.managers.scheduler_registry")
    except ModuleNotFoundError:
        return None


def check_version() -> str | None:
    """A sentence on what is wrong with the installed SGLang's version; None if nothing is."""
    try:
        found = importlib.metadata.version("sglang")
    except importlib.metadata.PackageNotFoundError:
        return f"SGLang is not installed; install sglang=={TESTED_SGLANG[-1]}"
    if found not in TESTED_SGLANG:
        return (
            f"expected SGLang {' or '.join(TESTED_SGLANG)}, found {found}; "
            f"install sglang=={TESTED_SGLANG[-1]}, or a mars-sglang release that was tested with {found}"
        )
    return None


def check_seam(seam: Seam) -> str | None:
    """A sentence on how SGLang differs from what this seam expects; None if it does not."""
    try:
        found = pkgutil.resolve_name(seam.target)
    except Exception as error:
        return f"expected {seam.target} (for: {seam.why}), found {type(error).__name__}: {error}"
    if not seam.parameters:
        return None
    # A hook of ours that landed wraps the original; its own signature is the one that matters.
    signature = inspect.signature(inspect.unwrap(found))
    names = tuple(signature.parameters)
    missing = [name for name in seam.parameters if name not in names and name != "self"]
    if missing:
        return f"expected {seam.target} (for: {seam.why}) to take {', '.join(missing)}, found ({', '.join(names)})"
    return None


def problems() -> list[str]:
    """Everything that keeps MARS from running on the installed SGLang, a sentence each."""
    version = check_version()
    found = [version] if version else []
    return found + [problem for problem in map(check_seam, SEAMS) if problem]


def require() -> None:
    """
    Raises:
        SeamError: names every mismatch and what to do.
    """
    found = problems()
    if found:
        raise SeamError(
            "this SGLang does not have what MARS needs:\n  - "
            + "\n  - ".join(found)
            + "\nServe without --scheduler-policy and --mars-admission, or install the release named above; "
            "`mars-sglang doctor` repeats this check."
        )
