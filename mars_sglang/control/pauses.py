"""The control process's part in prediction: learns from pauses, says when each will end, and who went dormant.

A pause is open from a program's last ended turn until its next one. It is looked at when it
starts, and again at growing ages, so a silent program costs less and less and an idle table
costs nothing. However many looks are due at one heartbeat, few are taken, first due first; the
rest wait for the next one, and a dormant program is found so much later.
"""

import heapq
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mars_sglang.control.state import State
from mars_sglang.core.pauses import NO_LOAD, LoadAt, PauseKey
from mars_sglang.core.prediction import PausePredictor
from mars_sglang.core.program import HUMAN
from mars_sglang.stream.codec import Received
from mars_sglang.stream.events import (
    Event,
    ExecutorLoad,
    PausePredicted,
    ProgramEnded,
    SourceState,
    ToolStarted,
    ToolUse,
    TurnEnded,
    TurnSubmitted,
)

#: A silence is dormant once a return within the horizon is less likely than this. docs/prediction.md says how often
#: that is wrong on recorded agents, which is why neither is smaller or larger.
DORMANT_HORIZON_S, DORMANT_BELOW = 600.0, 0.1

#: Ages at which an open pause is looked at: from the first on, each so many times the one before.
FIRST_LOOK_S, LOOK_FACTOR = 5.0, 1.3

#: Looks taken at one heartbeat: nothing else is done meanwhile, and one takes 50 to 100 us (``docs/cost.md``). Two
#: heartbeats a second look at 10,000 open pauses in 40 s. A look that comes late makes the next one later too.
LOOKS_PER_TICK = 128

#: Looks at pauses that are over are only thrown away, 2 us each; no process hears of more turns between two heartbeats.
PASSED_PER_TICK = 4096

#: What is said of a pause, enough for a reader to rebuild its distribution by interpolation.
PROBABILITIES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)

#: Pauses open or dormant; beyond it the oldest are forgotten.
MAX_PAUSES = 100_000
#: Looks ahead, those at pauses that are over included: these are swept out when there are so many.
MAX_LOOKS = 2 * MAX_PAUSES


@dataclass(slots=True)
class _Pause:
    key: PauseKey
    started_s: float
    load: LoadAt
    told_s: float = 0.0
    """Age up to which the predictor was told of it."""


class PauseConsumer:
    """A consumer of the ordered stream; see :class:`mars_sglang.control.sequencer.Consumer`.

    Args:
        predictor: what was learned before; nothing by default.
    """

    def __init__(self, predictor: PausePredictor | None = None):
        self.predictor = predictor or PausePredictor()
        self._open: OrderedDict[str, _Pause] = OrderedDict()
        self._dormant: OrderedDict[str, _Pause] = OrderedDict()
        """A program that was given up may yet come back, and that is worth learning."""
        self._looks: list[tuple[float, int, str, _Pause]] = []
        self._number = 0
        self._chats: OrderedDict[str, None] = OrderedDict()
        """Whose running turn may be a mere chat's: most of those never come back, and nothing waits for them."""
        self._executors: OrderedDict[str, str] = OrderedDict()
        """Where a program's tools ran last."""

    def hear(self, received: Received, state: State) -> Iterable[Event]:
        match received.event:
            case TurnSubmitted(program=str(program), gated=gated):
                self._returned(program, received.at_s)
                if not gated:
                    self._keep(self._chats, program, None)
            case TurnEnded(program=str(program)) as ended:
                return self._turn_ended(program, ended, received.at_s, state)
            case ToolStarted(program=str(program), executor=executor):
                self._keep(self._executors, program, executor)
            case ProgramEnded(program=str(program)):
                self._forget(program)
            case SourceState(role="server", programs=programs):
                # After a restart of this process: the pauses that were open go on.
                for known in programs:
                    if known.phase == "acting" and known.turns and known.program not in self._open:
                        self._begin(known.program, known.tools, min(known.since_s, received.at_s), received.at_s, state)
        return ()

    def tick(self, now_s: float, state: State) -> Iterable[Event]:
        looked = passed = 0
        while self._looks and self._looks[0][0] <= now_s and looked < LOOKS_PER_TICK and passed < PASSED_PER_TICK:
            _, _, program, pause = heapq.heappop(self._looks)
            if self._open.get(program) is not pause:
                passed += 1
                continue
            looked += 1
            age_s = now_s - pause.started_s
            self.predictor.still_out(pause.key, age_s, pause.load, since_s=pause.told_s)
            pause.told_s = age_s
            forecast = self.predictor.predict(pause.key, age_s, pause.load)
            if forecast.dormant(DORMANT_HORIZON_S, DORMANT_BELOW):
                del self._open[program]
                self._keep(self._dormant, program, pause)
                yield ProgramEnded(program=program, reason="dormant")
            else:
                self._look_later(program, pause, age_s)

    def _turn_ended(self, program: str, ended: TurnEnded, at_s: float, state: State) -> Iterable[Event]:
        known = state.programs.get(program)
        if known is not None and known.running:
            return ()  # another turn of it goes on
        chat = program in self._chats
        self._chats.pop(program, None)
        if chat and not ended.tools:
            return ()
        if ended.last:
            self._forget(program)
            return ()
        pause = self._begin(program, ended.tools, at_s, at_s, state)
        forecast = self.predictor.predict(pause.key, 0.0, pause.load)
        quantiles = tuple(float(f"{forecast.quantile(p):.4g}") for p in PROBABILITIES)
        finite = [q for q in quantiles if q != float("inf")]
        return (
            PausePredicted(
                program=program,
                turn=ended.turn,
                key=forecast.key,
                tool=pause.key.command or pause.key.tool,
                probabilities=PROBABILITIES[: len(finite)],
                quantiles_s=tuple(finite),
            ),
        )

    def _begin(self, program: str, tools: tuple[ToolUse, ...], started_s: float, now_s: float, state: State) -> _Pause:
        pause = _Pause(self._key(program, tools), started_s, self._load(program, now_s, state))
        self._dormant.pop(program, None)
        self._keep(self._open, program, pause)
        self._look_later(program, pause, 0.0)
        return pause

    def _key(self, program: str, tools: tuple[ToolUse, ...]) -> PauseKey:
        """Of several calls at once the program waits for the slowest."""
        keys = [PauseKey(use.tool, use.command, program) for use in tools] or [PauseKey(HUMAN, None, program)]
        if len(keys) == 1:
            return keys[0]
        return max(keys, key=lambda key: self.predictor.predict(key).quantile(0.5))

    def _load(self, program: str, now_s: float, state: State) -> LoadAt:
        """Of the host where its tools ran last, or of the only host there is."""
        executor = self._executors.get(program)
        if executor is None and len(state.executors) == 1:
            executor = next(iter(state.executors))
        if executor is None or state.is_stale(executor, now_s):
            return NO_LOAD
        return load_at(state.executors[executor][0])

    def _returned(self, program: str, at_s: float) -> None:
        pause = self._open.pop(program, None) or self._dormant.pop(program, None)
        if pause is not None:
            self.predictor.observe(pause.key, max(0.0, at_s - pause.started_s), pause.load, since_s=pause.told_s)

    def _forget(self, program: str) -> None:
        self._open.pop(program, None)
        self._executors.pop(program, None)

    def _look_later(self, program: str, pause: _Pause, age_s: float) -> None:
        self._number += 1
        at_s = pause.started_s + max(FIRST_LOOK_S, age_s * LOOK_FACTOR)
        heapq.heappush(self._looks, (at_s, self._number, program, pause))
        if len(self._looks) > MAX_LOOKS:
            self._looks = [look for look in self._looks if self._open.get(look[2]) is look[3]]
            heapq.heapify(self._looks)

    @staticmethod
    def _keep(table: OrderedDict[str, Any], program: str, value: Any) -> None:
        table[program] = value
        table.move_to_end(program)
        if len(table) > MAX_PAUSES:
            table.popitem(last=False)


def load_at(load: ExecutorLoad) -> LoadAt:
    """What a sidecar's report means for a tool call that arrives now."""
    return LoadAt.of_executor(
        queued=load.queued,
        active=load.active,
        slots=load.slots,
        service_s=load.service_s,
        cores=load.cores,
        run_queue=load.run_queue,
        cpu_pressure=load.cpu_pressure,
        throttled=load.throttled,
    )
