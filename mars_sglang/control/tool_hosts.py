"""What the hosts of tools report, as admission is shown it."""

from collections.abc import Callable, Iterable, Mapping

from mars_sglang.core.views import ToolsView
from mars_sglang.stream.events import ExecutorLoad


def tools_view(
    executors: Mapping[str, tuple[ExecutorLoad, float]], is_stale: Callable[[str], bool]
) -> ToolsView | None:
    """All hosts of tools as one; None where there is none.

    A host without a bound on its calls counts its cores for slots. One of which nothing new is heard is counted, and is
    in no other number: what is not known is taken for healthy.

    Args:
        executors: by name, the last report and when it came: :attr:`mars_sglang.control.state.State.executors`.
        is_stale: whether the report of this executor is too old to say how busy it is now.
    """
    if not executors:
        return None
    loads = [load for name, (load, _) in executors.items() if not is_stale(name)]
    return ToolsView(
        slots=sum(load.slots if load.slots is not None else int(load.cores) for load in loads),
        active=sum(load.active for load in loads),
        queued=sum(load.queued for load in loads),
        # A host averages over calls that got a slot: with none in its queue, it tells of a wait that is over.
        wait_s=_most(load.wait_s for load in loads if load.queued) or 0.0,
        cpu_pressure=_most(share for load in loads for share in (load.cpu_pressure, load.throttled)),
        memory_pressure=_most(load.memory_pressure for load in loads),
        memory_used_share=_most(_memory_used_share(load) for load in loads),
        hosts=len(executors),
        stale=len(executors) - len(loads),
    )


def _memory_used_share(load: ExecutorLoad) -> float | None:
    if load.memory_bytes is None or not load.memory_limit_bytes:
        return None
    return load.memory_bytes / load.memory_limit_bytes


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
