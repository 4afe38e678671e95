"""The life of a turn in the server process: whose it is, whether it may start, how it ended."""

import asyncio
import logging
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import msgspec
from sglang.srt.managers.io_struct import GenerateReqInput

from mars_sglang import __version__, clock
from mars_sglang.config import ADMISSION_OFF, MarsConfig
from mars_sglang.core.gate import Gate
from mars_sglang.core.policy import admission_policy
from mars_sglang.core.program import Program, ProgramTable
from mars_sglang.core.views import ToolsView
from mars_sglang.engine import wire
from mars_sglang.engine.admission_gate import AdmissionGate
from mars_sglang.engine.recognition import Recognition
from mars_sglang.engine.server_stream import ServerStream, program_state
from mars_sglang.engine.server_turn import ServerTurn, max_output_tokens, prompt_tokens
from mars_sglang.engine.tool_names import parse_answer
from mars_sglang.stream.events import ExecutorLoad, PausePredicted

logger = logging.getLogger(__name__)

#: How often the stream is heard, in real seconds.
POLL_S = 0.05


#: Fields of an event that say who sent it.
_SENDER = ("source", "source_seq", "time_s", "program", "turn")
#: Fields of a program's state that the server process has no part in.
_ENGINE_KNOWS = ("retained_pages", "page_tokens")


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Arguments of the server that matter to its turns."""

    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    incremental: bool = False
    """Whether streamed responses hold only what is new."""
    priorities: bool = False
    """Whether it schedules by priority."""


class ServerTurns:
    """One per server process, used on its event loop.

    Args:
        config: what is on.
        host: what the server was started with.
    """

    def __init__(self, config: MarsConfig, host: HostSettings):
        self.config = config
        self._host = host
        self.programs = ProgramTable()
        self.gate: AdmissionGate | None = None
        self.stream: ServerStream | None = None
        self._recognition = Recognition(config)
        # One thread: the loop goes on while a long answer is parsed.
        self._parser = ThreadPoolExecutor(1, thread_name_prefix="mars-tool-names")
        self._watching: asyncio.Task | None = None

    def open_stream(self) -> None:
        """Start saying and hearing; a stream that cannot be opened is one warning, and serving goes on."""
        if self.config.stream is None:
            return
        try:
            self.stream = ServerStream(self.config.stream, self.programs)
        except Exception as error:
            logger.warning("mars-sglang: no information stream: %s", error)
            return
        self.stream.on_dormant = self._give_up_place

    def open_gate(self, capacity_tokens: int) -> None:
        """Start admitting by footprint; called once the engine told its pool's size."""
        if self.config.admission == ADMISSION_OFF:
            return
        gate = Gate(admission_policy(self.config.admission), capacity_tokens, self.programs)

        def decided(now_s, decision):
            if self.stream is not None:
                self.stream.decided(gate, decision, now_s)

        self.gate = AdmissionGate(gate, decided)
        logger.info("mars-sglang: admission %s over %d KV tokens", self.config.admission, capacity_tokens)

    def watch(self) -> None:
        """Keep hearing the stream; called where an event loop runs."""
        if self.stream is not None and (self._watching is None or self._watching.done()):
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            try:
                self.stream.poll()
                self._tell_gate_of_tools()
            except Exception:
                logger.exception("mars-sglang: the information stream failed; serving goes on without it")
                self.stream = None
                return
            await asyncio.sleep(POLL_S)

    def _tell_gate_of_tools(self) -> None:
        if self.gate is not None:
            self.gate.gate.tools = tools_view([load for _, load in self.stream.executors.values()])

    # -- a turn ----------------------------------------------------------------------------------

    def arrive(self, obj: GenerateReqInput, body: Mapping[str, Any], headers: Mapping[str, str]) -> ServerTurn:
        """Note a request, and find its program.

        Raises:
            IdentityError: its ids cannot be used.
        """
        if obj.rid is None:
            # The engine's events have to name the turn as ours do.
            obj.rid = uuid.uuid4().hex
        now_s = clock.now()
        turn_id = obj.rid if isinstance(obj.rid, str) else str(obj.rid[0])
        identity = self._recognition.identify(obj, turn_id, body, headers)
        turn = ServerTurn(turn_id, identity, now_s, prompt_tokens(obj), body)
        if self._host.incremental and obj.stream:
            turn.text = []
        if identity.program is not None:
            known = self.programs.touch(identity.program, now_s)
            known.recognised_by, known.parent = identity.recognised_by, identity.parent
            known.ending = None
        if self._host.priorities and obj.priority is None:
            obj.priority = identity.priority
        if self.stream is not None:
            output = identity.expected_output_tokens or max_output_tokens(obj)
            self.stream.submitted(identity, turn_id, turn.prompt_tokens, output, now_s)
        return turn

    async def admit(self, turn: ServerTurn, is_disconnected) -> None:
        """Wait until the turn may go to the engine; :meth:`end` has to follow in any case."""
        program = turn.identity.program
        if self.gate is not None:
            await self.gate.enter(turn.gated(), turn.turn_id, turn.prompt_tokens, is_disconnected, turn.arrived_s)
        if program is not None and (self.gate is None or not turn.identity.gated):
            self.programs.touch(program, turn.arrived_s).begin(turn.turn_id, turn.prompt_tokens)

    def mark(self, obj: GenerateReqInput, turn: ServerTurn) -> None:
        """Write the turn on its request, for the scheduler."""
        program, program_arrived_s = turn.gated(), turn.arrived_s
        if program is not None:
            program_arrived_s = self.programs.touch(program, turn.arrived_s).arrived_s
        paused = self.gate.paused() if self.gate is not None else ()
        marked = wire.WireTurn(program, turn.arrived_s, program_arrived_s, paused, turn.identity.last)
        obj.sampling_params = wire.put_all(obj.sampling_params, marked)

    async def hear(self, turn: ServerTurn, response: Any) -> None:
        """Note a response on its way to the client.

        The answer is taken apart before the client has all of it: its next turn may come at once.
        """
        turn.hear(response)
        if turn.identity.program is None or not turn.answered() or not (text := turn.answer()):
            return
        parse = partial(
            parse_answer,
            text,
            turn.body.get("tools"),
            tool_call_parser=self._host.tool_call_parser,
            reasoning_parser=self._host.reasoning_parser,
        )
        turn.parsed = await asyncio.get_running_loop().run_in_executor(self._parser, parse)
        self._recognition.ended(turn.turn_id, turn.parsed, text)

    def end(self, turn: ServerTurn) -> None:
        """The turn is over, whether by an answer, a failure or a client that went away."""
        program, now_s = turn.identity.program, clock.now()
        meta = turn.meta()
        context = ((meta.get("prompt_tokens") or 0) + (meta.get("completion_tokens") or 0)) or None
        tools = turn.parsed.tools if turn.parsed is not None else ()
        known = self.programs.get(program) if program is not None else None
        over = "final" if turn.identity.last else known.ending if known is not None else None
        last = over is not None
        self._recognition.over(turn.turn_id)
        if known is not None and context:
            known.tools = tools
        if self.stream is not None:
            self.stream.ended(program, turn.turn_id, now_s, meta, turn.finish_reason(meta), tools, last)
        if known is not None and (self.gate is None or not turn.identity.gated):
            known.end(turn.turn_id, now_s, context)
        if self.gate is not None:
            self.gate.leave(
                turn.gated(),
                turn.turn_id,
                context,
                last,
                now_s,
                meta.get("cached_tokens") or 0,
                meta.get("completion_tokens") or 0,
            )
        if over is not None and program is not None:
            self._say_over(program, over, now_s)

    # -- the end of a program ----------------------------------------------------------------------

    def program_over(self, program: str, reason: str) -> bool:
        """Somebody said that the program is over. Whether it was known.

        A turn still under way ends as it would; its program is over then.
        """
        known = self.programs.get(program)
        if known is None:
            return False
        if known.in_flight or known.held:
            known.ending = reason
            return True
        self._say_over(program, reason, clock.now())
        self._give_up_place(program)
        return True

    def _say_over(self, program: str, reason: str, now_s: float) -> None:
        if self.stream is not None:
            self.stream.program_ended(program, reason, now_s)
        self._recognition.forget(program)

    def scoped(self, program: str, headers: Mapping[str, str]) -> str:
        """A program's id as the sender of these headers owns it."""
        return self._recognition.scoped(program, headers)

    def _give_up_place(self, program: str) -> None:
        if self.gate is None or not self.gate.end(program):
            return
        if self.stream is not None:
            self.stream.released(program, clock.now())
        self.gate.refill()

    # -- seen from outside ---------------------------------------------------------------------------

    def state(self, limit: int) -> dict[str, Any]:
        """For the state page: the newest ``limit`` programs and all counts."""
        now_s = clock.now()
        newest = [known for known, _ in zip(self.programs.newest(), range(limit), strict=False)]
        predictions = self.stream.predictions if self.stream else {}
        executors = self.stream.executors.values() if self.stream else ()
        return {
            "version": __version__,
            "now_s": now_s,
            "turn_policy": self.config.turn_policy,
            "admission": self.config.admission,
            "gate": asdict(self.gate.gate.snapshot()) if self.gate else None,
            "stream": self.stream.report() if self.stream else None,
            "executors": [_executor(load, now_s - heard_s) for heard_s, load in executors],
            "programs_known": len(self.programs),
            "programs": [_program(known, predictions.get(known.program)) for known in newest],
        }


def tools_view(loads: Sequence[ExecutorLoad]) -> ToolsView | None:
    """All hosts of tools as one; a host without a bound on its calls counts its cores for slots. None without hosts."""
    if not loads:
        return None
    waits = [load.wait_s for load in loads if load.wait_s is not None]
    return ToolsView(
        slots=sum(load.slots if load.slots is not None else int(load.cores) for load in loads),
        active=sum(load.active for load in loads),
        queued=sum(load.queued for load in loads),
        wait_s=max(waits, default=0.0),
    )


def _executor(load: ExecutorLoad, age_s: float) -> dict[str, Any]:
    fields = msgspec.structs.asdict(load)
    return {"age_s": max(0.0, age_s)} | {name: fields[name] for name in fields if name not in _SENDER}


def _program(known: Program, prediction: PausePredicted | None) -> dict[str, Any]:
    """A program, and while it is inside a tool when it is expected back, in seconds from its turn's end."""
    shown = msgspec.structs.asdict(program_state(known)) | {
        "tools": [msgspec.structs.asdict(use) for use in known.tools]
    }
    for name in _ENGINE_KNOWS:
        del shown[name]
    if prediction is not None and not known.in_flight:
        back = zip(prediction.probabilities, prediction.quantiles_s, strict=True)
        shown["predicted"] = {"from": prediction.key, "back_s": {f"{p:g}": seconds for p, seconds in back}}
    return shown
