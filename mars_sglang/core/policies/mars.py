"""The MARS turn policy: turns by what their program costs yet, aged; contexts kept from those that rank behind."""

from collections.abc import Sequence

from mars_sglang.core.dormancy import Dormancy
from mars_sglang.core.forecast import INDEX_MAX_S, Forecast, engine_s
from mars_sglang.core.kept import Kept
from mars_sglang.core.policies.bounded_table import MAX_REMEMBERED, BoundedTable
from mars_sglang.core.policy import BaseTurnPolicy, register_turn_policy
from mars_sglang.core.prefill_price import PRICED_TOKENS
from mars_sglang.core.program import Answer, Program, ProgramTable
from mars_sglang.core.views import (
    ContextState,
    ContextView,
    EngineFacts,
    PoolView,
    ProgramOver,
    ProgramView,
    RunningView,
    ToolKnown,
    TurnArrived,
    TurnDropped,
    TurnEnded,
    TurnEvent,
    TurnStarted,
    TurnView,
)

#: By objective, seconds of the engine that a second of a program's age is worth. Simulations: .1 to .5 are within 10%
#: in the mean; more of it makes the tail shorter, and the mean of mixed programs longer.
AGEING = {"mean": 0.1, "balanced": 0.3, "tail": 1.0}

#: Weight of what a turn has to compute first, beside the work to come: going on with what is cached comes before what
#: has to be computed for it, or programs of about the same rank would evict each other in turn. Simulations: 10 to 100
#: are alike, and 1 is up to 1.4 times worse.
UNCACHED_WEIGHT = 30.0

#: Seconds of work that a turn is charged at most, so that the order has a bound.
RANK_MAX_S = 600.0

#: A turn that does not fit beside those that run, and waited this long, holds back those behind it until it fits: long
#: enough for a step's worth of decoding turns to leave.
MAX_PASSED_S = 30.0

#: Turns after which prices are asked for again.
_RENEWED = 64

#: Sort keys that are left of turns that wait no longer.
_STALE_KEYS = 64


@register_turn_policy
class MarsTurnPolicy(BaseTurnPolicy):
    """Residency inside the engine, in the order of what programs cost.

    - A turn's **rank** is the engine's work on its program yet, in seconds (:func:`.forecast.engine_s`, at most
      :data:`.forecast.INDEX_MAX_S`), plus :data:`UNCACHED_WEIGHT` times the prefill of what of its prompt is not
      cached, together at most :data:`RANK_MAX_S`, plus :attr:`ageing` times the time at which its program came. It
      changes when its program does something, and not with time, so nobody is passed by a program that came
      :attr:`longest_pass_s` later. Turns without a program keep their arrival order among themselves.
    - The context of a program inside a tool is **kept** from turns that rank behind it (:mod:`mars_sglang.core.kept`),
      until its silence costs more than computing it again (:mod:`mars_sglang.core.dormancy`).
    - Memory is taken from paused programs first, then from dormant ones, then from the end of the order.

    Args:
        objective: of :data:`AGEING`.

    Raises:
        ValueError: another objective.
    """

    name = "mars"
    keeps_kv = True
    argument = "OBJECTIVE"
    optional = True

    def __init__(self, objective: str = "balanced"):
        if objective not in AGEING:
            raise ValueError(f"turn policy 'mars' with OBJECTIVE {objective!r}; accepted: {', '.join(AGEING)}, or none")
        self.ageing = AGEING[objective]
        """Seconds of the engine that a second of a program's age is worth."""
        self._programs = ProgramTable(MAX_REMEMBERED)
        self._forecast = Forecast()
        self._dormancy = Dormancy()
        self._work: dict[str, tuple[ProgramView, float]] = {}
        """What is expected of a program, while its view stays the same."""
        self._keys: dict[int, tuple[int, float, float, str, TurnView]] = {}
        """What waiting turns are sorted by, likewise: by the identity of a view, which its entry keeps alive."""
        self._anonymous: BoundedTable[list[float]] = BoundedTable(lambda: [0.0])
        """Ranks of turns without a program."""
        self._last_anonymous = float("-inf")
        self._version = self._forecast.version
        self._turns = 0

    @classmethod
    def from_text(cls, text: str) -> "MarsTurnPolicy":
        """The policy of ``mars:TEXT``. Raises ValueError."""
        return cls(text)

    @property
    def longest_pass_s(self) -> float:
        """No turn of a program that came so many seconds later goes before a waiting one."""
        return RANK_MAX_S / self.ageing

    def attach(self, engine: EngineFacts) -> None:
        self._engine = engine
        self._look_at_prices()

    def _look_at_prices(self) -> None:
        price = self._engine.prefill_s(PRICED_TOKENS, 0) / PRICED_TOKENS
        self._pool = PoolView(self._engine.capacity_tokens, 0, prefill_token_s=price)

    # -- what programs do ----------------------------------------------------------------------

    def observe(self, event: TurnEvent, now_s: float) -> None:
        match event:
            case TurnArrived(program=None):
                work_s = min(INDEX_MAX_S, self._engine.prefill_s(event.context_tokens, 0))
                self._last_anonymous = max(self._last_anonymous, work_s + self.ageing * now_s)
                self._anonymous.touch(event.turn_id)[0] = self._last_anonymous
            case TurnArrived(program=str(program)):
                self._arrived(program, event, now_s)
            case TurnStarted(program=str(program)):
                known = self._programs.get(program)
                if known is not None and event.turn_id in known.held:
                    known.begin(event.turn_id, known.held[event.turn_id][0], now_s)
                    del known.held[event.turn_id]
            case TurnEnded():
                if event.program is None:
                    self._anonymous.pop(event.turn_id)
                else:
                    self._ended(event.program, event, now_s)
            case TurnDropped():
                self._anonymous.pop(event.turn_id)
                known = self._programs.get(event.program)
                if known is not None:
                    known.end(event.turn_id, now_s, None)
            case ToolKnown():
                known = self._programs.get(event.program)
                if known is not None:
                    known.called(event.tool)
            case ProgramOver():
                self._over(event.program, said=False)

    def _arrived(self, program: str, event: TurnArrived, now_s: float) -> None:
        known = self._programs.touch(program, now_s)
        if known.last_end_s is not None and not (known.in_flight or known.held):
            pause_s = known.idle_s(now_s)
            self._forecast.observe_pause(known.view(), pause_s)
            self._dormancy.observe_pause(known.view(), pause_s)
        known.hold(event.turn_id, event.context_tokens, now_s)
        self._turns += 1
        if self._turns % _RENEWED == 0:
            self._look_at_prices()
        if self._version != self._forecast.version or len(self._work) > MAX_REMEMBERED:
            self._version = self._forecast.version
            self._work.clear()
            self._keys.clear()

    def _ended(self, program: str, event: TurnEnded, now_s: float) -> None:
        known = self._programs.touch(program, now_s)
        answer = Answer(event.prompt_tokens, event.output_tokens, event.cached_tokens)
        if event.turn_id in known.held:
            # It never ran: there is nothing to learn from it.
            answer = None
        known.end(event.turn_id, now_s, answer)
        if event.last:
            self._over(program, said=True)

    def _over(self, program: str, said: bool) -> None:
        known = self._programs.get(program)
        if known is not None:
            view = known.view()
            self._forecast.observe_over(view, said)
            self._dormancy.observe_over(view, said)
            if not (known.in_flight or known.held):
                self._programs.forget(program)
                self._work.pop(program, None)

    # -- what is first -------------------------------------------------------------------------

    def _work_s(self, known: Program) -> float:
        """Seconds of the engine for its turns to come, beside what has to be computed again."""
        view = known.view()
        work = self._work.get(known.program)
        if work is None or work[0] is not view:
            work = self._work[known.program] = view, engine_s(view, self._forecast.rest(view), self._pool)
        return work[1]

    def rank(self, turn: TurnView, now_s: float) -> tuple[int, float]:
        return self._key(turn)[:2]

    def _key(self, turn: TurnView) -> tuple[int, float, float, str, TurnView]:
        key = self._keys.get(id(turn))
        if key is None:
            if len(self._keys) > 2 * MAX_REMEMBERED:
                self._keys.clear()
            key = self._keys[id(turn)] = turn.priority, self._seconds(turn), turn.arrived_s, turn.turn_id, turn
        return key

    def _seconds(self, turn: TurnView) -> float:
        if turn.program is None:
            known = self._anonymous.get(turn.turn_id)
            return self.ageing * turn.arrived_s if known is None else known[0]
        program = self._programs.get(turn.program)
        first_s = self._engine.prefill_s(turn.uncached_tokens, max(0, turn.context_tokens - turn.uncached_tokens))
        work_s = 0.0 if program is None else min(INDEX_MAX_S, self._work_s(program))
        return min(RANK_MAX_S, UNCACHED_WEIGHT * first_s + work_s) + self.ageing * turn.program_arrived_s

    def order_turns(self, turns: Sequence[TurnView], now_s: float) -> list[int]:
        if len(self._keys) > 2 * len(turns) + _STALE_KEYS:
            self._keys.clear()
        # This goes over all that wait in every pass, so it leaves the loops to the interpreter.
        keys = list(map(self._keys.get, map(id, turns)))
        if None in keys:
            keys = list(map(self._key, turns))
        return sorted(range(len(turns)), key=keys.__getitem__)

    def may_be_passed(self, turn: TurnView, now_s: float) -> bool:
        return now_s - turn.arrived_s < MAX_PASSED_S

    # -- what stays ----------------------------------------------------------------------------

    def keep(self, context: ContextView, now_s: float) -> Kept | None:
        known = self._programs.get(context.program)
        if known is None or context.state == ContextState.PAUSED:
            return None
        view = known.view()
        until_s = now_s - context.idle_s + self._dormancy.limit_s(view, self._pool)
        if until_s <= now_s:
            self._dormancy.observe_silence(view)
            return None
        shared_tokens = min(view.shared_tokens, context.tokens)
        return Kept(
            rank=(context.priority, self._context_seconds(known, context)),
            until_s=until_s,
            tokens=context.tokens - shared_tokens,
            shared_tokens=shared_tokens,
            again_s=self._engine.prefill_s(context.tokens, 0),
        )

    def _context_seconds(self, known: Program | None, context: ContextView) -> float:
        work_s = 0.0 if known is None else min(INDEX_MAX_S, self._work_s(known))
        return work_s + self.ageing * context.program_arrived_s

    def order_reclaim(self, contexts: Sequence[ContextView], now_s: float) -> list[int]:
        """Paused programs, then dormant ones, the longest silent first; then from the end of the order."""

        def key(i: int):
            context = contexts[i]
            known = self._programs.get(context.program)
            last = -self._context_seconds(known, context)
            if context.state == ContextState.PAUSED:
                return 0, -context.priority, last, context.program
            if context.state == ContextState.TOOL and (
                known is None or context.idle_s >= self._dormancy.limit_s(known.view(), self._pool)
            ):
                return 1, -context.priority, -context.idle_s, context.program
            return 2, -context.priority, last, context.program

        return sorted(range(len(contexts)), key=key)

    def order_victims(self, running: Sequence[RunningView], now_s: float) -> list[int]:
        """Least urgent, least often retracted, latest program, least work lost.

        Past retractions come before age so that the same turn is not taken again and again.
        """
        return sorted(
            range(len(running)),
            key=lambda i: (
                -running[i].priority,
                running[i].retractions,
                -running[i].program_arrived_s,
                running[i].output_tokens,
                running[i].turn_id,
            ),
        )
