"""The engine's passes in virtual time: SGLang's scheduler loop, without overlap, mixed batches or speculation.

A pass prefills if a turn can be added, else it decodes one token of every turn that runs. Decode steps between two
events differ in nothing but their context, so a run of them is taken in one go.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

from eval.simulator.book import ProgramBook
from eval.simulator.cache import PrefixCache
from eval.simulator.decode import decode_s, steps_until
from eval.simulator.native import NativeTurns
from eval.simulator.prefill import PrefillAdder, SkippingAdder, Verdict, chunk_limit
from eval.simulator.request import Request
from eval.simulator.retention import Retention, Sessions
from eval.simulator.waiting import WaitingQueue, look_up
from mars_sglang.core.cost_model import CostModel
from mars_sglang.core.kept import spare_tokens
from mars_sglang.core.policy import TurnPolicy
from mars_sglang.core.views import (
    EngineFacts,
    ToolKnown,
    TurnArrived,
    TurnDropped,
    TurnEnded,
    TurnStarted,
)

#: Decode steps for which a retraction makes room (``SGLANG_RETRACT_DECODE_STEPS``).
_RETRACT_STEPS = 20


class Engine:
    """One engine. Its time is :attr:`now`; whoever runs it moves it over idle time.

    Args:
        policy: of SGLang's (:mod:`eval.simulator.native`) or of ours.
        ended: told of each turn that was answered, at :attr:`now`.
        aborted: told of each turn that SGLang gives up for want of memory.
        say: takes the event log's kind, turn and figures.
    """

    def __init__(
        self, cost: CostModel, cache: PrefixCache, policy: TurnPolicy, sessions: Sessions | None,
        ended: Callable[[Request], None], aborted: Callable[[Request], None], say: Callable[..., None],
    ) -> None:  # fmt: skip
        self.now = 0.0
        self.cache = cache
        self.counters: Counter[str] = Counter()
        self.retractions = 0
        self._cost = cost
        self._profile = cost.profile
        self._policy = policy
        self._ours = not isinstance(policy, NativeTurns)
        self._shares_chunks = self._ours or policy.shares_chunks
        self._sessions = sessions
        self._ended, self._aborted, self._say = ended, aborted, say
        self._waiting = WaitingQueue(cache, policy)
        self._running: list[Request] = []
        self._chunked: Request | None = None
        self._full = False
        """SGLang's ``batch_is_full``: nothing more is tried until a turn leaves."""
        self._book = ProgramBook()
        self._retention: Retention | None = None
        if self._ours:
            self._retention = Retention(
                cache, policy, lambda tokens: self._book.contexts(tokens, self._waiting.turns, self.now)
            )
        host_tokens = 0 if cache.host is None else cache.host.capacity_tokens
        self._spare_tokens = spare_tokens(cache.capacity_tokens, host_tokens)
        self._busy_s = 0.0
        """When something ran last."""
        chunk_tokens = self._profile.chunked_prefill_tokens
        policy.attach(EngineFacts(cache.capacity_tokens, chunk_tokens, cost.prefill_s, self._spare_tokens))

    @property
    def held_tokens(self) -> int:
        """KV tokens of the turns in the engine that the tree does not have."""
        turns = [*self._running, *self._waiting.turns, *([self._chunked] if self._chunked else [])]
        return sum(request.owned for request in turns)

    @property
    def has_work(self) -> bool:
        return bool(self._running or self._waiting.turns or self._chunked)

    def resident_tokens(self, program: str) -> int | None:
        """Of its context, what is cached; None under a policy of SGLang's, which does not say."""
        return None if self._retention is None else self._retention.tokens(program)

    # -- turns come and go -----------------------------------------------------------------------

    def receive(self, request: Request, paused: frozenset[str]) -> None:
        """A turn comes from the gate.

        Args:
            paused: programs that had given up their place when it passed.
        """
        if self._retention is not None:
            for program in sorted(paused - self._book.paused):
                self._retention.kept.drop(program)
            self._retention.kept.asks(request.program)
        self._book.paused = paused
        self._book.arrived(request)
        request.queued_s = self.now
        event = TurnArrived(request.turn_id, request.program, request.prompt_tokens, request.pause_s)
        self._policy.observe(event, self.now)
        self._queue(request)

    def tool_known(self, program: str, tool: str) -> None:
        """The engine hears what a program is inside of."""
        self._policy.observe(ToolKnown(program, tool), self.now)

    def _queue(self, request: Request) -> None:
        request.matched, request.view = False, None
        request.queue_mark = self.counters["prefill_tokens"]
        self._waiting.turns.append(request)
        if self._ours:
            # A turn that came since may be one that fits: a continuation needs little.
            self._full = False

    def _release(self, request: Request) -> None:
        self.cache.free += request.owned
        request.owned = 0
        self.cache.unlock(request.locked_node)
        request.locked_node = None

    def _finish(self, request: Request) -> None:
        """The answer is complete; the KV of its last token was never computed."""
        self._insert(request, request.context - 1)
        self._book.ended(request.program, self.now)
        node = request.locked_node
        self._release(request)
        if self._sessions is not None:
            self._sessions.ended(request.program, node)
        event = TurnEnded(
            turn_id=request.turn_id,
            program=request.program,
            prompt_tokens=request.prompt_tokens,
            cached_tokens=request.cached_tokens,
            output_tokens=request.output,
            arrived_s=request.arrived_s,
            started_s=request.prefill_s,
            other_tokens=sum(other.context for other in self._running if other is not request),
            last=request.last,
        )
        self._policy.observe(event, self.now)
        if self._retention is not None:
            self._retention.retain(request.program, node)
            if request.last:
                self._retention.release(request.program)
            elif (held := self._retention.tokens(request.program)) > 0:
                self._retention.keep(self._book.context(request.program, held, self.now), self.now)
        self._say("end", request, request.output)
        self._ended(request)

    def _insert(self, request: Request, upto: int) -> None:
        """Give the first ``upto`` tokens' KV to the tree; what the tree had already is freed."""
        node, adopted = self.cache.insert(request.text, upto, request.hint)
        own = upto - request.protected
        self.cache.free += own - adopted
        request.owned -= own
        if request.prompt_tokens < upto:
            # A boundary there lets the answer be evicted without the prompt.
            self.cache.split_at(node, request.prompt_tokens)
        self.cache.lock(node)
        self.cache.unlock(request.locked_node)
        request.locked_node = request.hint = node
        request.protected = request.prefix = upto

    # -- passes ----------------------------------------------------------------------------------

    def advance(self, until: float) -> bool:
        """Run one pass, or decode steps up to the first that ends at or after ``until``; False if nothing can run."""
        if not self._running:
            self._full = False
        batch = self._prefill_batch()
        if batch is not None:
            self._run_prefill(batch)
            return True
        if self._running:
            self._run_decode(until)
            return True
        return False

    def _prefill_batch(self) -> PrefillAdder | None:
        if self._retention is not None:
            self._retention.repin(len(self._running), self.now, more=self._chunked is None)
        places = self._profile.max_running_requests - len(self._running)
        if self._chunked is None:
            if self._full or not self._waiting.turns:
                return None
            if places <= 0:
                self._full = True
                return None
        self._sort()
        self.counters["passes"] += 1
        adder = self._adder()
        if self._chunked is not None:
            going_on = self._chunked
            limit = self._chunk_limit(going_on, adder.chunk_left)
            self._chunked = going_on if adder.go_on(going_on, limit) else None
        self._add_waiting(adder, places)
        if not adder.added:
            self._note_shortage(adder, False)
            return None
        taken = {request.turn_id for request in adder.added}
        self._waiting.turns = [request for request in self._waiting.turns if request.turn_id not in taken]
        if adder.new_chunked is not None:
            self._chunked = adder.new_chunked
        self._note_shortage(adder, True)
        for request in adder.added:
            self._start(request)
        return adder

    def _sort(self) -> None:
        kept, idle_s = None, 0.0
        if self._retention is not None:
            kept = self._retention.kept
            for program in kept.due(self.now):
                view = self._book.context(program, self._retention.tokens(program), self.now)
                self._retention.keep(view, self.now)
            if not (self._running or self._chunked):
                idle_s = self.now - self._idle_since_s()
        self._waiting.sort(self.now, self.counters["prefill_tokens"], kept, self._spare_tokens, idle_s)

    @property
    def wakes_s(self) -> float:
        """When something may be possible that is not now, if nothing happens; never, where nothing is kept."""
        if self._retention is None or not self._waiting.turns:
            return math.inf
        return self._retention.kept.next_change_s(self._idle_since_s(), self.now)

    def _idle_since_s(self) -> float:
        """Since when something waits and nothing runs."""
        return max(self._busy_s, min((request.queued_s for request in self._waiting.turns), default=self.now))

    def _adder(self) -> PrefillAdder:
        arguments = (
            self.cache, self._running, self._profile.chunked_prefill_tokens, self._shares_chunks, self._evict,
        )  # fmt: skip
        if self._ours:
            return SkippingAdder(*arguments, policy=self._policy, now_s=self.now, arranged=self._waiting.arranged)
        return PrefillAdder(*arguments)

    def _chunk_limit(self, request: Request, budget: int) -> int | None:
        limit = chunk_limit(request, self._waiting.turns, budget) if self._shares_chunks else None
        asked = self._ours and self._policy.cuts_prefills
        quantum = self._policy.quantum_tokens(request.waiting_view(), self.now) if asked else None
        if quantum is None:
            return limit
        return max(1, quantum) if limit is None else min(limit, max(1, quantum))

    def _add_waiting(self, adder: PrefillAdder, places: int) -> None:
        for request in self._waiting.turns:
            if adder.verdict() is Verdict.OTHER:
                return
            if len(adder.added) >= places:
                self._full = True
            if self._full:
                return
            look_up(self.cache, request, request.context - 1)
            verdict = adder.add(request, self._chunked is not None)
            if verdict is not Verdict.CONTINUE:
                if verdict is Verdict.NO_TOKEN:
                    self._full = bool(adder.added or self._running)
                return

    def _note_shortage(self, adder: PrefillAdder, added: bool) -> None:
        # What SGLang concludes from the turn that ends its pass: try again when one leaves.
        if isinstance(adder, SkippingAdder) and adder.short_of_memory:
            self._full = added or bool(self._running)

    def _start(self, request: Request) -> None:
        if self._retention is not None:
            self._retention.kept.drop(request.program)
        first = request.prefill_s is None
        if not first and request.retracted_s is None:
            return
        waited_s = self.now - (request.queued_s if request.retracted_s is None else request.retracted_s)
        if first:
            request.prefill_s = self.now
        request.retracted_s = request.view = None
        event = TurnStarted(request.turn_id, request.program, max(0.0, waited_s), request.retractions)
        self._policy.observe(event, self.now)
        self._say("start", request, request.prefix)

    def _evict(self, tokens: int) -> None:
        if tokens <= 0:
            return
        if self._retention is not None:
            self._retention.evict(tokens, self.now)
        else:
            self.cache.evict(tokens)

    def _take(self, tokens: int) -> bool:
        """Allocate from the pool, after evicting what that takes; False if there is too little."""
        self._evict(tokens - self.cache.free)
        if self.cache.free < tokens:
            return False
        self.cache.free -= tokens
        return True

    def _run_prefill(self, adder: PrefillAdder) -> None:
        rows = [(request.scheduled_upto - request.prefix, request.prefix) for request in adder.added]
        tokens = sum(extend for extend, _ in rows)
        if not self._take(tokens):
            raise RuntimeError(
                f"a prefill of {tokens} tokens was admitted with {self.cache.free} free and "
                f"{self.cache.evictable} evictable"
            )
        step_s = self._cost.step_s(rows)
        if adder.loaded_tokens:
            # Layer by layer, the load runs beneath the computation of the layers before.
            step_s = max(step_s, self._cost.host_transfer_s(adder.loaded_tokens))
        self._spend(step_s, 1)
        self.counters["prefill_tokens"] += tokens
        self.counters["host_loaded_tokens"] += adder.loaded_tokens
        started_empty = not self._running
        for request, (extend, _) in zip(adder.added, rows, strict=True):
            request.owned += extend
            if request is self._chunked:
                self._insert(request, request.scheduled_upto)
                continue
            request.output += 1
            if request.first_token_s is None:
                request.first_token_s = self.now
                self._say("first", request, request.cached_tokens)
            if request.finished:
                self._full = False
                self._finish(request)
            else:
                self._insert(request, request.scheduled_upto)
                self._running.append(request)
        if self._chunked is not None or started_empty:
            # SGLang forgets that the batch was full when it drops the unfinished row from the batch that ran,
            # and when that batch becomes the running one.
            self._full = False

    def _run_decode(self, until: float) -> None:
        rows = len(self._running)
        if self.cache.free < rows and not self._make_room_to_decode():
            return
        rows = len(self._running)
        context = sum(request.context for request in self._running)
        steps = min(request.out_tokens - request.output for request in self._running)
        steps = min(steps, self.cache.free // rows)
        if not self._full and self._waiting.turns:
            # The next pass tries to prefill again.
            steps = 1
        steps = steps_until(self._cost, rows, context, steps, until - self.now)
        self.cache.free -= steps * rows
        self._spend(decode_s(self._cost, rows, context, steps), steps)
        for request in self._running:
            request.owned += steps
            request.output += steps
        done = [request for request in self._running if request.finished]
        for request in done:
            self._finish(request)
        if done:
            self._running = [request for request in self._running if not request.finished]
            self._full = False

    def _spend(self, seconds: float, steps: int) -> None:
        self.now += seconds
        self._busy_s = self.now
        self.counters["gpu_busy_s"] += seconds
        self.counters["steps"] += steps

    # -- retraction ------------------------------------------------------------------------------

    def _make_room_to_decode(self) -> bool:
        """Room for one token of each turn that runs, by eviction, else by retracting turns; False if none is left."""
        rows = len(self._running)
        self._evict(rows - self.cache.free)
        if self.cache.free >= rows:
            return True
        order = self._policy.order_victims([request.running_view() for request in self._running], self.now)
        victims = [self._running[i] for i in order]
        retracted: list[Request] = []
        while len(victims) > 1 and (not retracted or not self._room_for(len(victims))):
            request = victims.pop(0)
            self._retract(request, len(victims))
            retracted.append(request)
        aborted = victims.pop() if len(victims) == 1 and not self._room_for(1) else None
        gone = {request.turn_id for request in retracted}
        self._running = [r for r in self._running if r.turn_id not in gone and r is not aborted]
        for request in retracted:
            self._queue(request)
        if aborted is not None:
            self._release(aborted)
            self._say("abort", aborted)
            self._policy.observe(TurnDropped(aborted.turn_id, aborted.program), self.now)
            self._aborted(aborted)
        self._full = False
        return bool(self._running)

    def _room_for(self, rows: int) -> bool:
        self._evict(rows - self.cache.free)
        return self.cache.free >= rows

    def _retract(self, request: Request, left: int) -> None:
        """Free the KV of its answer; its prompt is in the tree, and may stay there."""
        self.retractions += 1
        self._release(request)
        self._evict(left * _RETRACT_STEPS - self.cache.free)
        request.retractions += 1
        request.retracted_s = self.now
        request.prefix = request.protected = request.host_hit = 0
        self._say("retract", request, request.output)
