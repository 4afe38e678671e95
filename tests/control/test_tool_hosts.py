"""What admission is shown of the hosts of tools, from their reports as the control process keeps them."""

from mars_sglang.control.state import STALE_S, State
from mars_sglang.control.tool_hosts import tools_view
from mars_sglang.core.views import ToolsView
from mars_sglang.stream.events import ExecutorLoad

G = 1 << 30


def seen(now_s: float, *reports: tuple[float, ExecutorLoad]) -> ToolsView | None:
    """The view at ``now_s``, of reports by the times at which they came."""
    state = State()
    for at_s, load in reports:
        state.apply(load, at_s)
    return tools_view(state.executors, lambda executor: state.is_stale(executor, now_s))


def test_there_is_no_view_of_no_hosts():
    assert seen(0.0) is None


def test_slots_and_calls_add_up_and_the_worst_host_tells_wait_pressure_and_memory():
    small = ExecutorLoad(
        executor="small",
        cores=2.5,
        active=3,
        queued=1,
        wait_s=1.5,
        cpu_pressure=0.2,
        throttled=0.6,
        memory_pressure=0.01,
        memory_bytes=3 * G,
        memory_limit_bytes=4 * G,
    )
    large = ExecutorLoad(
        executor="large",
        cores=64.0,
        slots=16,
        active=16,
        queued=4,
        wait_s=0.5,
        cpu_pressure=0.3,
        memory_pressure=0.02,
        memory_bytes=32 * G,
        memory_limit_bytes=64 * G,
    )
    # 2 slots of the small one's 2.5 cores; its throttling loses more time than any host's cores do.
    assert seen(1.0, (0.9, small), (1.0, large)) == ToolsView(18, 19, 5, 1.5, 0.6, 0.02, 0.75, hosts=2, stale=0)


def test_the_wait_of_a_host_where_no_call_waits_is_over():
    idle = ExecutorLoad(executor="idle", slots=4, wait_s=30.0)
    busy = ExecutorLoad(executor="busy", slots=4, active=4, queued=1, wait_s=0.5)
    assert seen(0.0, (0.0, idle)).wait_s == 0.0
    assert seen(0.0, (0.0, idle), (0.0, busy)).wait_s == 0.5


def test_what_no_host_tells_is_unknown():
    assert seen(0.0, (0.0, ExecutorLoad(executor="a", slots=4, memory_bytes=G))) == ToolsView(4, 0, 0, 0.0)


def test_a_host_of_which_nothing_new_is_heard_is_only_counted():
    lost = ExecutorLoad(executor="lost", slots=8, active=8, queued=9, wait_s=60.0, cpu_pressure=1.0)
    here = ExecutorLoad(executor="here", slots=4, active=1)
    reports = (0.0, lost), (1.0, here)
    assert seen(STALE_S, *reports) == ToolsView(12, 9, 9, 60.0, 1.0, hosts=2, stale=0)
    assert seen(STALE_S + 0.5, *reports) == ToolsView(4, 1, 0, 0.0, hosts=2, stale=1)
    assert seen(STALE_S + 1.5, *reports) == ToolsView(0, 0, 0, 0.0, hosts=2, stale=2)
