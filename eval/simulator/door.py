"""Between clients and engine: the core's admission gate, told what the server process tells it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from eval.simulator.engine import Engine
from eval.simulator.events import Agenda
from eval.simulator.request import Request
from eval.simulator.tools import ToolSlots
from mars_sglang.core.gate import Gate
from mars_sglang.core.program import Answer

#: How often the gate decides while something waits, in emulated seconds.
TICK_S = 1.0


class Door:
    """Lets turns through to the engine.

    Args:
        gate: None lets everything through at once.
        say: takes the event log's kind, program and figures.
        tenants: whose each program is; those without an entry are of the tenant without a key.
    """

    def __init__(
        self, gate: Gate | None, engine: Engine, tools: ToolSlots, agenda: Agenda, say: Callable[..., None],
        tenants: Mapping[str, str],
    ) -> None:  # fmt: skip
        self._gate = gate
        self._engine = engine
        self._tools = tools
        self._agenda = agenda
        self._say = say
        self._tenants = tenants
        self._held: dict[str, Request] = {}
        self._ticking = False

    def submit(self, request: Request) -> None:
        """A turn arrives at the server."""
        gate, now_s = self._gate, self._agenda.now
        tenant = self._tenants.get(request.program, "")
        if gate is None:
            self._engine.receive(request, frozenset())
        elif gate.submit(request.program, request.turn_id, request.prompt_tokens, now_s, tenant=tenant):
            self._engine.receive(request, frozenset(gate.paused()))
        else:
            self._held[request.turn_id] = request
            if (resident := self._engine.resident_tokens(request.program)) is not None:
                gate.resident(request.program, resident)
            self._decide()
            self._keep_ticking()

    def ended(self, request: Request, answered: bool) -> None:
        """A turn came back from the engine."""
        if self._gate is None:
            return
        answer = None
        if answered:
            tools = (request.tool,) if request.tool else ()
            answer = Answer(request.prompt_tokens, request.output, request.cached_tokens, tools)
        self._gate.finish(request.program, request.turn_id, self._agenda.now, answer, last=request.last)
        self._decide()

    def _decide(self) -> None:
        self._gate.tools = self._tools.view()
        decision = self._gate.decide(self._agenda.now)
        for program in decision.paused:
            self._say("pause", program)
        for program, waited_s in decision.admitted:
            self._say("admit", program, waited_s)
        paused = frozenset(self._gate.paused())
        for turn_id in decision.passed:
            self._engine.receive(self._held.pop(turn_id), paused)

    def _keep_ticking(self) -> None:
        if not self._ticking and self._held:
            self._ticking = True
            self._agenda.at(self._agenda.now + TICK_S, self._tick)

    def _tick(self) -> None:
        self._ticking = False
        if self._held:
            self._decide()
            self._keep_ticking()
