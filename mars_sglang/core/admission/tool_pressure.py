"""Whether the hosts of tools have more work than they can do, and which programs had better not start then."""

from mars_sglang.core.program import HUMAN
from mars_sglang.core.views import ProgramView, ToolsView

#: Overloaded from the first number of a pair on, no longer at the second. Tools that run or wait, per slot, and seconds
#: that one waits: the constants of the MARS preview (arXiv 2604.26963).
PER_SLOT = 2.0, 1.0
WAIT_S = 5.0, 2.0
#: Share of time in which some task waited for a core. A tool then takes 1 / (1 - share) times as long
#: (:meth:`mars_sglang.core.pauses.LoadAt.of_executor`): twice from the first on, as with two tools per slot.
CPU_PRESSURE = 0.5, 0.25
#: Memory in use. earlyoom (of memory) and systemd-oomd (of memory and swap) kill from .90 on unless told otherwise, and
#: the tools of programs that are inside already go on growing: a margin of .05 for these.
MEMORY_USED = 0.85, 0.75
#: And share of time in which some task waited for memory: a cgroup full of page cache, which the kernel gives up when
#: it has to, is not short of it. The first is what systemd watches for by default: 200 ms in 2 s.
MEMORY_PRESSURE = 0.10, 0.05


class ToolPressure:
    """Two states with hysteresis, from the last :class:`ToolsView`. What is unknown is healthy."""

    def __init__(self):
        self.overloaded = False
        """Tools wait for a slot or a core."""
        self.out_of_memory_near = False
        """One tool more may get one killed, which is worse than any wait."""
        self._wait_s = 0.0

    def observe(self, tools: ToolsView | None) -> None:
        """Take in what the hosts said last; None where none reports."""
        if tools is None:
            self.overloaded, self.out_of_memory_near, self._wait_s = False, False, 0.0
            return
        # A mean over calls that got a slot does not fall while none comes; with no queue, a call does not wait.
        self._wait_s = tools.wait_s if tools.queued else 0.0
        per_slot = (tools.active + tools.queued) / tools.slots if tools.slots else 0.0
        readings = (per_slot, PER_SLOT), (self._wait_s, WAIT_S), (tools.cpu_pressure or 0.0, CPU_PRESSURE)
        self.overloaded = any(_over(value, marks, self.overloaded) for value, marks in readings)
        stalls = tools.memory_pressure is None or _over(tools.memory_pressure, MEMORY_PRESSURE, self.out_of_memory_near)
        used = _over(tools.memory_used_share or 0.0, MEMORY_USED, self.out_of_memory_near)
        self.out_of_memory_near = used and stalls

    def holds(self, program: ProgramView, prefill_token_s: float | None) -> bool:
        """Whether a waiting program had better not start or resume now.

        * Memory is near its end: no program that brings tools starts. A paused one may resume: its files and processes
          are there already, and go only when it ends.
        * Overloaded: one holds that would be back at the tools before a call that comes now gets its slot, or sooner
          than its own calls take on average: it would only lengthen the queue. A longer prefill keeps the GPU at work
          while the tools drain.

        Who asks has to let a program in all the same where nothing is admitted, as no tool of its own will then end,
        and after a bounded wait.

        Args:
            prefill_token_s: as in :class:`PoolView`; None: nobody holds for overload.
        """
        if not _brings_tools(program):
            return False
        if self.out_of_memory_near and not program.paused:
            return True
        if not self.overloaded or prefill_token_s is None:
            return False
        return next_prefill_tokens(program) * prefill_token_s < max(self._wait_s, _tool_s(program))


def next_prefill_tokens(program: ProgramView) -> int:
    """What a waiting program prefills first, if it is let in: its context less what the engine says to be cached, or,
    where it does not say, less the prefix that others have too."""
    cached = program.shared_tokens if program.resident_tokens is None else program.resident_tokens
    return max(0, program.context_tokens - cached)


def _over(value: float, marks: tuple[float, float], was: bool) -> bool:
    high, low = marks
    return value > low if was else value >= high


def _brings_tools(program: ProgramView) -> bool:
    """False where no turn of it has called one; True where that is not known."""
    tools = program.history.tools if program.history is not None else ()
    return not tools or any(name != HUMAN for name, _ in tools)


def _tool_s(program: ProgramView) -> float:
    """Mean pause; 0 before the first ended."""
    history = program.history
    return history.paused_s / history.pauses if history is not None and history.pauses else 0.0
