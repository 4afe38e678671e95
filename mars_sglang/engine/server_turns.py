"""The life of a turn in the server process: whose it is, whether it may start, how it ended."""

import asyncio
import logging
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
from sglang.srt.managers.io_struct import GenerateReqInput

from mars_sglang import __version__, clock
from mars_sglang.config import ADMISSION_OFF, MarsConfig
from mars_sglang.core.gate import Gate
from mars_sglang.core.policy import admission_policy
from mars_sglang.core.program import ProgramTable
from mars_sglang.engine import wire
from mars_sglang.engine.admission_gate import AdmissionGate, TurnAborted
from mars_sglang.engine.identity import Identity
from mars_sglang.engine.recognition import Recognition
from mars_sglang.engine.server_stream import ServerStream, program_state
from mars_sglang.engine.tool_names import tools_called
from mars_sglang.stream.events import ToolUse

logger = logging.getLogger(__name__)

#: Characters per token assumed for a prompt that reaches the gate as text; its real length
#: is known when its turn ends.
CHARACTERS_PER_TOKEN = 3

#: How often the stream is heard, in real seconds.
POLL_S = 0.05


@dataclass(slots=True)
class ServerTurn:
    """A turn between its arrival and its end."""

    turn_id: str
    identity: Identity
    arrived_s: float
    prompt_tokens: int
    body: Mapping[str, Any]
    response: Any = None
    """The last one; what is streamed before it is part of it."""
    text: list[str] | None = None
    """Pieces of the answer, where the server streams only what is new."""
    failure: BaseException | None = None

    def hear(self, response: Any) -> None:
        self.response = response
        if self.text is not None and isinstance(response, dict):
            self.text.append(response.get("text") or "")

    def answer(self) -> str:
        """Text of the answer so far; of the first where several were asked for."""
        if self.text is not None:
            return "".join(self.text)
        outputs = self.response if isinstance(self.response, list) else [self.response]
        return (outputs[0].get("text") or "") if outputs and isinstance(outputs[0], dict) else ""

    def meta(self) -> dict[str, Any]:
        """Token counts (summed over several answers) and the finish reason, empty before the first response."""
        outputs = self.response if isinstance(self.response, list) else [self.response]
        metas = [output.get("meta_info") or {} for output in outputs if isinstance(output, dict)]
        if not metas:
            return {}
        total = dict(metas[-1])
        for field in ("prompt_tokens", "completion_tokens", "cached_tokens"):
            total[field] = sum(meta.get(field) or 0 for meta in metas)
        return total


class ServerTurns:
    """One per server process, used on its event loop.

    Args:
        config: what is on.
        tool_call_parser: the server's, for the names of called tools.
        reasoning_parser: likewise.
        incremental: whether streamed responses hold only what is new.
    """

    def __init__(
        self, config: MarsConfig, tool_call_parser: str | None, reasoning_parser: str | None, incremental: bool
    ):
        self.config = config
        self.programs = ProgramTable()
        self.gate: AdmissionGate | None = None
        self.stream: ServerStream | None = None
        self._recognition = Recognition(config)
        self._parsers = (tool_call_parser, reasoning_parser)
        self._incremental = incremental
        # One thread: the loop goes on while a long answer is parsed.
        self._parser = ThreadPoolExecutor(1, thread_name_prefix="mars-tool-names")
        self._watching: asyncio.Task | None = None
        self._ending: set[asyncio.Task] = set()

    def open_stream(self) -> None:
        """Start saying and hearing; a stream that cannot be opened is one warning, and serving goes on."""
        if self.config.stream is None:
            return
        try:
            self.stream = ServerStream(self.config.stream, self.programs)
        except Exception as error:
            logger.warning("mars-sglang: no information stream: %s", error)
            return
        self.stream.on_dormant = lambda program: self._give_up_place(program)

    def open_gate(self, capacity_tokens: int) -> None:
        """Start admitting by footprint; called once the engine told its pool's size."""
        if self.config.admission == ADMISSION_OFF:
            return
        gate = Gate(admission_policy(self.config.admission), capacity_tokens, self.programs)

        def decided(now_s, decision):
            if self.stream is not None:
                self.stream.decided(self.config.admission, now_s, decision, gate.snapshot())

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
            except Exception:
                logger.exception("mars-sglang: the information stream failed; serving goes on without it")
                return
            await asyncio.sleep(POLL_S)

    # -- a turn ----------------------------------------------------------------------------------

    def arrive(
        self, obj: GenerateReqInput, body: Mapping[str, Any], headers: Mapping[str, str], path: str
    ) -> ServerTurn:
        """Note a request, and find its program.

        Raises:
            IdentityError: its ids cannot be used.
        """
        if obj.rid is None:
            # The engine's events have to name the turn as ours do.
            obj.rid = uuid.uuid4().hex
        now_s = clock.now()
        turn_id = obj.rid if isinstance(obj.rid, str) else str(obj.rid[0])
        identity = self._recognition.identify(obj, turn_id, body, headers, path, now_s)
        turn = ServerTurn(turn_id, identity, now_s, prompt_tokens(obj), body)
        if self._incremental and obj.stream:
            turn.text = []
        if identity.program is not None:
            known = self.programs.touch(identity.program, now_s)
            known.recognised_by, known.parent = identity.recognised_by, identity.parent
            known.ending = False
        if self.stream is not None:
            output = identity.expected_output_tokens or max_output_tokens(obj)
            self.stream.submitted(identity, turn_id, turn.prompt_tokens, output, now_s)
        return turn

    async def admit(self, turn: ServerTurn, is_disconnected) -> None:
        """Wait until the turn may go to the engine; :meth:`end` has to follow in any case."""
        program = turn.identity.program
        if self.gate is not None:
            await self.gate.enter(program, turn.turn_id, turn.prompt_tokens, is_disconnected, turn.arrived_s)
        elif program is not None:
            self.programs.touch(program, turn.arrived_s).begin(turn.turn_id, turn.prompt_tokens)

    def mark(self, obj: GenerateReqInput, turn: ServerTurn) -> None:
        """Write the turn on its request, for the scheduler."""
        program_arrived_s = turn.arrived_s
        if turn.identity.program is not None:
            program_arrived_s = self.programs.touch(turn.identity.program, turn.arrived_s).arrived_s
        paused = self.gate.paused() if self.gate is not None else ()
        marked = wire.WireTurn(turn.identity.program, turn.arrived_s, program_arrived_s, paused, turn.identity.last)
        obj.sampling_params = wire.put_all(obj.sampling_params, marked)

    def end(self, turn: ServerTurn) -> None:
        """The turn is over, whether by an answer, a failure or a client that went away."""
        if turn.identity.program is None or not turn.answer():
            self._ended(turn, ())
            return
        task = asyncio.get_running_loop().create_task(self._end(turn))
        self._ending.add(task)  # the loop alone would not keep it
        task.add_done_callback(self._ending.discard)

    async def _end(self, turn: ServerTurn) -> None:
        loop = asyncio.get_running_loop()
        tools = await loop.run_in_executor(
            self._parser, tools_called, turn.answer(), turn.body.get("tools"), *self._parsers
        )
        self._ended(turn, tools)

    def _ended(self, turn: ServerTurn, tools: tuple[ToolUse, ...]) -> None:
        program, now_s = turn.identity.program, clock.now()
        meta = turn.meta()
        context = ((meta.get("prompt_tokens") or 0) + (meta.get("completion_tokens") or 0)) or None
        known = self.programs.get(program) if program is not None else None
        last = turn.identity.last or (known is not None and known.ending)
        self._recognition.ended(turn.turn_id, turn.answer() if context else None)
        if known is not None and context:
            known.tools = tools
        if self.stream is not None:
            self.stream.ended(program, turn.turn_id, now_s, meta, _finish_reason(meta, turn.failure), tools, last)
        if self.gate is not None:
            self.gate.leave(program, turn.turn_id, context, last, now_s)
        elif known is not None:
            known.end(turn.turn_id, now_s, context)
        if last and program is not None and self.stream is not None:
            self.stream.program_ended(program, "final" if turn.identity.last else "deleted", now_s)

    # -- the end of a program ----------------------------------------------------------------------

    def program_over(self, program: str, reason: str) -> bool:
        """Somebody said that the program is over. Whether it was known.

        A turn still under way ends as it would; its program is over then.
        """
        known = self.programs.get(program)
        if known is None:
            return False
        if known.in_flight or known.held:
            known.ending = True
            return True
        if self.stream is not None:
            self.stream.program_ended(program, reason, clock.now())
        self._give_up_place(program)
        return True

    def scoped(self, program: str, headers: Mapping[str, str]) -> str:
        """A program's id as the sender of these headers owns it."""
        return self._recognition.scoped(program, headers)

    def _give_up_place(self, program: str) -> None:
        if self.gate is None or not self.gate.end(program):
            return
        if self.stream is not None:
            self.stream.ticket(program, "released", clock.now())
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
            "executors": [
                {"age_s": max(0.0, now_s - heard_s), **msgspec.to_builtins(load)} for heard_s, load in executors
            ],
            "programs_known": len(self.programs),
            "programs": [
                {
                    **msgspec.to_builtins(program_state(known)),
                    "prediction": msgspec.to_builtins(predictions[known.program])
                    if known.program in predictions and not known.in_flight
                    else None,
                }
                for known in newest
            ],
        }


def prompt_tokens(obj: GenerateReqInput) -> int:
    """Prompt length in tokens, exact where the endpoint has tokenized it, else estimated from text."""
    if obj.input_ids:
        first = obj.input_ids[0]
        return len(obj.input_ids) if isinstance(first, int) else sum(len(ids) for ids in obj.input_ids)
    texts = [obj.text] if isinstance(obj.text, str) else (obj.text or [])
    return sum(len(text) for text in texts) // CHARACTERS_PER_TOKEN + 1


def max_output_tokens(obj: GenerateReqInput) -> int:
    """The answer's bound that the client gave; 0 where it gave none."""
    params = obj.sampling_params
    if isinstance(params, list):
        return sum((one or {}).get("max_new_tokens") or 0 for one in params)
    return (params or {}).get("max_new_tokens") or 0


def _finish_reason(meta: Mapping[str, Any], failure: BaseException | None) -> str:
    reason = meta.get("finish_reason")
    if isinstance(reason, Mapping):
        return str(reason.get("type") or "")
    if reason:
        return str(reason)
    if isinstance(failure, TurnAborted):
        return "abort"
    return "error" if isinstance(failure, Exception) else "gone"
