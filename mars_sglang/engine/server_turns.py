"""The life of a turn in the server process: whose it is, whether it may start, how it ended."""

import asyncio
import logging
import time
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from sglang.srt.managers.io_struct import GenerateReqInput

from mars_sglang import clock
from mars_sglang.config import ADMISSION_OFF, MarsConfig, instance
from mars_sglang.core.placement import Placement
from mars_sglang.core.prefill_price import PrefillPrice
from mars_sglang.core.program import Answer, Program, ProgramTable
from mars_sglang.engine import turn_info, wire
from mars_sglang.engine.admission_gate import AWAY_S, AdmissionGate
from mars_sglang.engine.metrics import ServerMetrics
from mars_sglang.engine.recognition import Recognition
from mars_sglang.engine.refusals import AdmissionRefused, deadline_s
from mars_sglang.engine.server_stream import ServerStream, program_state, turn_state
from mars_sglang.engine.server_turn import ServerTurn, max_output_tokens, prompt_tokens
from mars_sglang.engine.stream_end import MAX_TOLD_PROGRAMS
from mars_sglang.engine.tool_names import parse_answer
from mars_sglang.stream.events import AdmissionTicket, GateSettings, ProgramState, TurnState

logger = logging.getLogger(__name__)

#: How often side processes and the control process's answers are looked after, in real seconds. What it says is heard
#: when it comes.
POLL_S = 0.05

#: How long the server's start waits for the control process, in real seconds; it is there in one or two.
MEET_S = 10.0

#: How often gauges are brought up to date, in real seconds.
SHOW_S = 1.0


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Arguments of the server that matter to its turns."""

    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    incremental: bool = False
    """Whether streamed responses hold only what is new."""
    priorities: bool = False
    """Whether it schedules by priority."""
    metrics: bool = False
    """Whether it shows Prometheus metrics."""
    ranks: int = 1
    """Data-parallel ranks among which programs are placed; 1 where that is left to SGLang."""


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
        self.metrics = ServerMetrics(enabled=False)
        self.placement: Placement | None = None
        if host.ranks > 1:
            # Placement compares prefills with prefills: what one costs on this engine scales both sides alike.
            self.placement = Placement(host.ranks, PrefillPrice().seconds)
        self._settings: GateSettings | None = None
        self._anonymous: dict[str, tuple[int, float]] = {}
        """Prompt tokens and arrival of the turns that are nobody's to the gate, by turn id."""
        self._under_way: dict[str, ServerTurn] = {}
        self._recognition = Recognition(config)
        # One thread: the loop goes on while a long answer is parsed.
        self._parser = ThreadPoolExecutor(1, thread_name_prefix="mars-tool-names")
        self._watching: asyncio.Task | None = None
        self._show_at = 0.0

    def open_stream(self) -> None:
        """Start saying and hearing once the engine is up; a stream that cannot be opened is one warning, no more."""
        self.metrics = ServerMetrics(enabled=self._host.metrics)
        if self.config.stream is None:
            return
        try:
            self.stream = ServerStream(self.config.stream, self._told, first_tokens=self.placement is not None)
        except Exception as error:
            logger.warning("mars-sglang: no information stream, so every program may start: %s", error)
            return
        if self.placement is not None:
            self.stream.on_first_token = self.placement.answering
            self.stream.on_dormant = self.placement.forget

    def open_gate(
        self, capacity_tokens: int, host_tokens: int = 0, host_copies: bool = True, *, engine_keeps: bool = False
    ) -> None:
        """Start asking for admission; called once the engine told its pool's size.

        Args:
            host_tokens: KV tokens of the engine's host tier.
            host_copies: whether that holds copies of what the GPU holds.
            engine_keeps: whether the engine itself keeps the contexts of those ahead from those behind.
        """
        config, stream = self.config, self.stream
        if config.admission == ADMISSION_OFF or stream is None:
            return
        self._settings = GateSettings(
            policy=config.admission,
            capacity_tokens=capacity_tokens,
            host_tokens=host_tokens,
            host_copies=host_copies,
            engine_keeps=engine_keeps,
            weights=config.tenant_weights,
            instance=instance(),
        )
        self.gate = AdmissionGate(
            self._heard_s,
            self._went_unasked,
            max_waiting=config.max_waiting,
            max_wait_s=config.max_admission_wait_s,
            answered=self.metrics.answered,
        )
        stream.on_ticket = self._hear_ticket
        stream.on_snapshot = lambda snapshot: self.gate.hear_all(snapshot.programs)
        stream.on_restart = self.gate.restarted
        logger.info("mars-sglang: admission %s over %d KV tokens", config.admission, capacity_tokens)

    def meet_control(self) -> None:
        """Wait until the control process is heard of: a batch may come at once, and would go by the gate unasked."""
        give_up_at = time.monotonic() + MEET_S
        while self.gate is not None and self.stream is not None and self._heard_s() > AWAY_S:
            if time.monotonic() > give_up_at:
                logger.warning("mars-sglang: the control process is not there, so every program may start until it is")
                break
            time.sleep(POLL_S)

    def watch(self) -> None:
        """Keep hearing the stream; called where an event loop runs."""
        if self.stream is not None and (self._watching is None or self._watching.done()):
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        readable = self.stream.socket.fd
        # A ticket is worth little after 50 ms, so it is not left to the next look.
        with suppress(NotImplementedError):
            loop.add_reader(readable, self._hear)
        try:
            while self.stream is not None:
                self._hear()
                if self.stream is None:
                    break
                self.stream.keep_alive()
                if self.gate is not None:
                    self.gate.check()
                self._show()
                await asyncio.sleep(POLL_S)
        finally:
            loop.remove_reader(readable)

    def _hear(self) -> None:
        try:
            if self.stream is not None:
                self.stream.poll()
        except Exception:
            logger.exception("mars-sglang: the information stream failed; serving goes on without it")
            self.stream = None
            if self.gate is not None:
                self.gate.close()

    def _heard_s(self) -> float:
        """Real seconds since the control process was heard of. What it said while the loop was busy counts."""
        if self.stream is not None and self.stream.heard_s() > AWAY_S:
            self._hear()
        return float("inf") if self.stream is None else self.stream.heard_s()

    def _hear_ticket(self, ticket: AdmissionTicket) -> None:
        self.gate.hear(ticket)
        match ticket.decision:
            case "admitted" | "resumed":
                known = self.programs.get(ticket.program)
                for turn_id in known.held if known is not None else ():
                    self._under_way[turn_id].gate_reason = ticket.reason or None
                self.metrics.admitted(ticket.waited_s, resumed=ticket.decision == "resumed")
            case "paused":
                self.metrics.paused()
            case "released":
                self.metrics.released()

    def _went_unasked(self, turn_id: str, program: str, reason: str) -> None:
        """A turn that waited goes without a ticket."""
        now_s = clock.now()
        known = self.programs.get(program)
        if known is not None and turn_id in known.held:
            self._begin(known, turn_id, known.held[turn_id][0], now_s)
            self._under_way[turn_id].gate_reason = reason
        if self.stream is not None:
            self.stream.passed(program, turn_id, reason, now_s)
        self.metrics.let_go(reason)

    def _show(self) -> None:
        """Gauges, once a second."""
        if time.monotonic() < self._show_at:
            return
        self._show_at = time.monotonic() + SHOW_S
        self.metrics.known(len(self.programs))
        self.metrics.connected(self.stream.heard_s() <= AWAY_S)
        if self.stream.window is not None:
            self.metrics.window(self.stream.window)
        self.metrics.executors(self.stream.executor_states())

    def _begin(self, known: Program, turn_id: str, tokens: int, now_s: float) -> None:
        known.begin(turn_id, tokens, now_s)
        known.held.pop(turn_id, None)

    def _told(self) -> tuple[list[ProgramState], tuple[TurnState, ...], GateSettings | None]:
        """What the control process is told after it, or a message, was lost."""
        newest = list(islice(self.programs.newest(), MAX_TOLD_PROGRAMS))
        programs = [program_state(known, self.admission_of(known)) for known in reversed(newest)]
        anonymous = tuple(turn_state(turn, *begun) for turn, begun in self._anonymous.items())
        return programs, anonymous, self._settings

    def admission_of(self, known: Program) -> str | None:
        """Whether the program has a place: ``admitted``, ``paused``, ``waiting``; None where nobody asked."""
        if self.gate is None:
            return None
        if self.gate.has_place(known.program):
            return "admitted"
        return "paused" if self.gate.is_paused(known.program) else "waiting" if known.held else None

    # -- a turn ----------------------------------------------------------------------------------

    def arrive(self, obj: GenerateReqInput, body: Mapping[str, Any], headers: Mapping[str, str]) -> ServerTurn:
        """Note a request, and find its program.

        Raises:
            IdentityError, DeadlineError: its ids, or its deadline, cannot be used.
            ValueError: a turn of this id is under way.
        """
        deadline = deadline_s(headers)
        if obj.rid is None:
            # The engine's events have to name the turn as ours do.
            obj.rid = uuid.uuid4().hex
        # SGLang's clean-up after a client that hung up reads it, and sets it only once the turn is past the gate.
        obj.is_single = isinstance(obj.rid, str)
        now_s = clock.now()
        turn_id = obj.rid if isinstance(obj.rid, str) else str(obj.rid[0])
        if turn_id in self._under_way:
            # SGLang says the same, but only once the turn is past the gate, where two would be taken for one.
            raise ValueError(f"Duplicate request ID detected: {turn_id}")
        identity = self._recognition.identify(turn_id, body, headers)
        turn = ServerTurn(turn_id, identity, now_s, prompt_tokens(obj), body, info=turn_info.asked(body, headers))
        if self._host.incremental and obj.stream:
            turn.text = []
        if identity.program is not None:
            known = self.programs.touch(identity.program, now_s)
            known.recognised_by, known.parent = identity.recognised_by, identity.parent
            known.tenant, known.ending = identity.tenant, None
            turn.continuation = known.turns > 0
        if self._host.priorities and obj.priority is None:
            obj.priority = identity.priority
        turn.held = self.gate is not None and self.gate.holds(turn.gated())
        turn.deadline_s = deadline
        self._under_way[turn_id] = turn
        if self.stream is not None:
            output = identity.expected_output_tokens or max_output_tokens(obj)
            number = self.programs.get(identity.program).turns if identity.program is not None else 0
            self.stream.submitted(identity, turn_id, turn.prompt_tokens, output, number, turn.held, now_s)
        return turn

    async def admit(self, turn: ServerTurn, is_disconnected) -> None:
        """Wait until the turn may go to the engine; :meth:`end` has to follow in any case.

        Raises:
            TurnAborted, AdmissionRefused: it may not.
        """
        program, known = turn.identity.program, None
        if program is not None:
            known = self.programs.touch(program, turn.arrived_s)
        if turn.held:
            known.hold(turn.turn_id, turn.prompt_tokens, turn.arrived_s)
            try:
                await self.gate.wait(program, turn.turn_id, is_disconnected, turn.deadline_s)
            except AdmissionRefused as refused:
                self.metrics.refused(refused.status_code)
                raise
            turn.gate_wait_s = clock.now() - turn.arrived_s
        if known is not None:
            self._begin(known, turn.turn_id, turn.prompt_tokens, clock.now())
        if turn.gated() is None:
            self._anonymous[turn.turn_id] = turn.prompt_tokens, turn.arrived_s

    def mark(self, obj: GenerateReqInput, turn: ServerTurn) -> None:
        """Write the turn on its request, for the scheduler."""
        program, program_arrived_s = turn.gated(), turn.arrived_s
        if program is not None:
            program_arrived_s = self.programs.touch(program, turn.arrived_s).arrived_s
        paused = (*(self.gate.paused() if self.gate is not None else ()), *self._place(obj, turn))
        marked = wire.WireTurn(program, turn.arrived_s, program_arrived_s, paused, turn.identity.last, turn.info)
        obj.sampling_params = wire.put_all(obj.sampling_params, marked)

    def _place(self, obj: GenerateReqInput, turn: ServerTurn) -> Iterable[str]:
        """Name the rank of the turn, where there are several; the programs that left that one, whose KV goes first."""
        if self.placement is None:
            return ()
        chosen = obj.data_parallel_rank if obj.routed_dp_rank is None else obj.routed_dp_rank
        # Also a first turn that may be of a mere chat: if it is not, the next one needs its KV.
        program = turn.identity.program
        rank = self.placement.place(turn.turn_id, program, turn.prompt_tokens, clock.now(), chosen)
        if rank is None:
            return ()
        obj.routed_dp_rank = rank
        return self.placement.left(rank)

    async def hear(self, turn: ServerTurn, response: Any) -> None:
        """Note a response on its way to the client.

        The answer is taken apart before the client has all of it: its next turn may come at once.
        """
        turn.hear(response)
        if turn.info:
            turn_info.add(turn, response)
        if self.placement is not None:
            self.placement.answering(turn.turn_id)
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
        answer = None
        if (meta.get("prompt_tokens") or 0) + (meta.get("completion_tokens") or 0):
            answer = Answer(meta.get("prompt_tokens") or 0, meta.get("completion_tokens") or 0)
        tools = turn.parsed.tools if turn.parsed is not None else ()
        known = self.programs.get(program) if program is not None else None
        over = "final" if turn.identity.last else known.ending if known is not None else None
        last = over is not None
        self._recognition.over(turn.turn_id)
        self._anonymous.pop(turn.turn_id, None)
        self._under_way.pop(turn.turn_id, None)
        if self.placement is not None:
            context_tokens = answer.prompt_tokens + answer.output_tokens if answer is not None else 0
            self.placement.end(turn.turn_id, context_tokens, now_s)
        if known is not None:
            if answer is not None:
                known.tools = tools
            known.end(turn.turn_id, now_s, answer)
            if not known.turns:
                # Its only turn failed: the control process takes its place back.
                self._leave(known)
        if self.stream is not None:
            self.stream.ended(program, turn.turn_id, now_s, meta, turn.finish_reason(meta), tools, last)
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
        return True

    def _say_over(self, program: str, reason: str, now_s: float) -> None:
        if self.stream is not None:
            self.stream.program_ended(program, reason, now_s)
        self._recognition.forget(program)
        if self.placement is not None:
            self.placement.forget(program)
        known = self.programs.get(program)
        if known is not None:
            self._leave(known)

    def _leave(self, known: Program) -> None:
        """Its next turn asks again, unless one is under way."""
        if self.gate is not None and not known.in_flight and not known.held:
            self.gate.forget(known.program)

    def scoped(self, program: str, headers: Mapping[str, str]) -> str:
        """A program's id as the sender of these headers owns it."""
        return self._recognition.scoped(program, headers)
