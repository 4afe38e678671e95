"""One run: every program of a workload against one server, hundreds at a time in one process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field

from eval import defaults
from eval.replay.arrivals import Arrivals
from eval.replay.conversation import Conversation
from eval.replay.endpoint import Answer, Endpoint, TurnFailed
from eval.replay.executor import ToolExecutor
from eval.replay.filler import SharedText
from eval.replay.record import ProgramRecord, Sample, TurnRecord, recomputed
from eval.replay.ruler import Ruler
from eval.replay.sampler import Counts, sample
from eval.replay.timing import Clock, real_seconds
from eval.workload.program import HUMAN, Program, Turn

INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class ReplayOptions:
    """How programs arrive and how their tools run. Times in emulated seconds."""

    arrivals: Arrivals
    seed: int
    tool_slots: int | None = defaults.TOOL_SLOTS
    max_pause_s: float = defaults.MAX_PAUSE_S
    request_timeout_s: float = defaults.REQUEST_TIMEOUT_S
    session_ids: bool = False
    """Whether requests carry their program as ``session_id`` too, for SGLang's session radix cache."""
    says_over: bool = False
    """Whether the last turn of a program says that it is the last (``is_last_step``), as few agents do."""
    run_id: str = "run"
    """Ends every program id that the server sees, so that two runs on one server are not taken for one."""


@dataclass
class RunResult:
    """Records of one run, complete or ``partial`` (interrupted). ``makespan`` of the run itself: ``took_s``."""

    programs: list[ProgramRecord]
    samples: list[Sample] = field(default_factory=list)
    took_s: float = 0.0
    tool_busy_s: float = 0.0
    partial: bool = False


class Replay:
    """Replays ``programs`` once. ``ended`` is called with each program's record when it ends."""

    def __init__(
        self,
        programs: list[Program],
        endpoint: Endpoint,
        model: str,
        ruler: Ruler,
        options: ReplayOptions,
        clock: Clock,
        ended: Callable[[ProgramRecord], None] = lambda _: None,
    ) -> None:
        self._programs = programs
        self._endpoint = endpoint
        self._model = json.dumps(model)
        self._ruler = ruler
        self._options = options
        self._clock = clock
        self._ended = ended
        self._shared = SharedText()
        self._tools = ToolExecutor(options.tool_slots, clock)
        self._records: list[ProgramRecord] = []
        self._began = 0.0
        self._live = 0
        self._in_pause = 0

    async def run(self, stop: asyncio.Event | None = None) -> RunResult:
        """To the end of every program, or until ``stop`` is set; then the result is partial."""
        self._began = self._clock.now()
        samples: list[Sample] = []
        looking = asyncio.create_task(
            sample(self._endpoint, self._since, self._counts, defaults.SAMPLE_EVERY_S, samples)
        )
        playing = asyncio.create_task(self._play())
        stopping = asyncio.create_task(stop.wait()) if stop else None
        try:
            await asyncio.wait({playing, stopping} - {None}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            partial = not playing.done()
            tasks = [task for task in (looking, playing, stopping) if task]
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result
        return RunResult(self._records, samples, self._since(), self._tools.busy_s, partial)

    async def _play(self) -> None:
        options = self._options
        places = asyncio.Semaphore(options.arrivals.concurrency) if options.arrivals.concurrency else None
        times = options.arrivals.times(len(self._programs), options.seed)
        self._records = [
            ProgramRecord(program.id, len(program.turns), at) for program, at in zip(self._programs, times, strict=True)
        ]
        async with asyncio.TaskGroup() as group:
            for program, record in zip(self._programs, self._records, strict=True):
                group.create_task(self._program(program, record, places))

    async def _program(self, program: Program, record: ProgramRecord, places: asyncio.Semaphore | None) -> None:
        arrived = held = False
        try:
            await self._clock.sleep(max(0.0, record.arrival_s - self._since()))
            if places is not None:
                await places.acquire()
                held = True
                record.arrival_s = self._since()
            arrived = True
            self._live += 1
            await self._turns(program, record)
            record.end_s = record.turns[-1].last_token_s
        except TurnFailed as failure:
            record.failure, record.detail = failure.reason, failure.detail
        except asyncio.CancelledError:
            record.failure = INTERRUPTED
            record.detail = f"after {len(record.turns)} of {record.turns_planned} turns"
            raise
        finally:
            self._live -= arrived
            if held:
                places.release()
            self._ended(record)

    async def _turns(self, program: Program, record: ProgramRecord) -> None:
        talk = Conversation(program, self._options.seed, self._ruler, self._shared)
        ready = record.arrival_s
        context = None
        last = len(program.turns) - 1
        for number, turn in enumerate(program.turns):
            prompt = talk.ask(turn)
            sent = self._since()
            over = self._options.says_over and number == last
            answer = await self._endpoint.chat(
                self._body(program, turn, prompt.messages, over), real_seconds(self._options.request_timeout_s)
            )
            talk.answered(answer.text, answer.prompt_tokens, answer.output_tokens)
            row = self._row(program, number, turn, answer, ready, sent, prompt.kept_tokens, context)
            record.turns.append(row)
            context = answer.prompt_tokens + answer.output_tokens
            if number < last:
                await self._pause(turn, row)
                ready = self._since()

    async def _pause(self, turn: Turn, row: TurnRecord) -> None:
        seconds = turn.pause_s(self._options.max_pause_s)
        row.tool = turn.tool
        self._in_pause += 1
        try:
            if turn.tool == HUMAN:
                await self._clock.sleep(seconds)
                row.tool_s = seconds
            else:
                time = await self._tools.run(seconds)
                row.tool_wait_s, row.tool_s = time.wait_s, time.run_s
        finally:
            self._in_pause -= 1

    def _body(self, program: Program, turn: Turn, messages: bytes, over: bool) -> bytes:
        name = json.dumps(f"{program.id}-{self._options.run_id}")
        session = f'"session_id":{name},' if self._options.session_ids else ""
        last = '"is_last_step":true,' if over else ""
        head = (
            f'{{"model":{self._model},"program_id":{name},{session}{last}"max_tokens":{turn.out_tokens},"temperature":0,'
            '"ignore_eos":true,"stream":true,"stream_options":{"include_usage":true},"messages":'
        )
        return b"%s%s}" % (head.encode(), messages)

    def _row(
        self, program: Program, number: int, turn: Turn, answer: Answer, ready: float, sent: float,
        kept: float, context: int | None,
    ) -> TurnRecord:  # fmt: skip
        return TurnRecord(
            program=program.id,
            turn=number,
            arrival_s=ready,
            sent_s=sent,
            first_token_s=answer.first_at - self._began,
            last_token_s=answer.last_at - self._began,
            traced_prompt_tokens=turn.in_tokens,
            prompt_tokens=answer.prompt_tokens,
            cached_tokens=answer.cached_tokens,
            output_tokens=answer.output_tokens,
            kept_tokens=kept,
            recomputed_tokens=recomputed(context, kept, answer.prompt_tokens, answer.cached_tokens),
        )

    def _since(self) -> float:
        return self._clock.now() - self._began

    def _counts(self) -> Counts:
        return Counts(self._live, self._in_pause, self._tools.queued)
