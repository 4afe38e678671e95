"""What the engine remembers of programs between their turns, and tells a policy of their contexts."""

from __future__ import annotations

from dataclasses import dataclass

from eval.simulator.request import Request
from mars_sglang.core.views import ContextState, ContextView


@dataclass(slots=True)
class KnownProgram:
    """One program."""

    arrived_s: float
    turns: int = 0
    last_end_s: float | None = None


class ProgramBook:
    """Every program that came to the engine."""

    def __init__(self) -> None:
        self.paused: frozenset[str] = frozenset()
        """Those that had given up their place when the last turn passed the gate."""
        self._programs: dict[str, KnownProgram] = {}

    def arrived(self, request: Request) -> None:
        """Note a turn, and on it what is known of its program."""
        known = self._programs.setdefault(request.program, KnownProgram(request.program_arrived_s))
        request.continuation = known.turns > 0
        if known.last_end_s is not None:
            request.pause_s = max(0.0, request.arrived_s - known.last_end_s)

    def ended(self, program: str, now_s: float) -> None:
        """A turn of the program was answered."""
        known = self._programs[program]
        known.turns += 1
        known.last_end_s = now_s

    def context(self, program: str, held: int, now_s: float) -> ContextView:
        """The retained context of a program inside a tool, as the policy sees it."""
        known = self._programs[program]
        state = ContextState.PAUSED if program in self.paused else ContextState.TOOL
        idle_s = max(0.0, now_s - known.last_end_s)
        return ContextView(program, held, state, idle_s, known.arrived_s, known.turns)

    def contexts(self, tokens: dict[str, int], waiting: list[Request], now_s: float) -> list[ContextView]:
        """Retained contexts as the policy sees them, in order, from their tokens by program."""
        in_queue = {request.program for request in waiting}
        views = []
        for program, held in tokens.items():
            view = self.context(program, held, now_s)
            views.append(view._replace(state=ContextState.WAITING) if program in in_queue else view)
        return views
