"""SGLang's ``Scheduler`` with a turn policy of ours in its extension points."""

import logging
import os

from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.runtime_context import get_parallel

from mars_sglang import __version__, clock
from mars_sglang.config import NATIVE_UNDER_MARS, MarsConfig
from mars_sglang.core.itl_target import LEAST_TOKENS, ItlTarget
from mars_sglang.core.kept import spare_tokens
from mars_sglang.core.policy import turn_policy
from mars_sglang.core.views import EngineFacts, RunningView
from mars_sglang.engine import wire
from mars_sglang.engine.decision_log import open_decision_log
from mars_sglang.engine.engine_stream import open_engine_stream
from mars_sglang.engine.output_streamer import MarsOutputStreamer
from mars_sglang.engine.prefill_adder import MarsPrefillAdder
from mars_sglang.engine.scheduler_metrics import SchedulerMetrics
from mars_sglang.engine.step_meter import StepMeter
from mars_sglang.engine.turn_queue import MarsSchedulePolicy
from mars_sglang.engine.turns import ClockTick, StreamNews, TurnBook
from mars_sglang.stream.events import FirstToken, TurnRetracted

logger = logging.getLogger(__name__)

#: How often rank 0 broadcasts its clock while nothing waits. Silence of programs is the only
#: thing measured then, and that in seconds.
IDLE_TICK_S = 0.25

#: Whether SGLang asks its scheduler for the victims (see patches/); if not, a hook does.
ASKS_FOR_VICTIMS = hasattr(Scheduler, "get_decode_retraction_order")

#: The scheduler of this process, for that hook: it is on a static method.
_scheduler: "MarsScheduler | None" = None


class MarsScheduler(Scheduler):
    """Adapter only: which turn goes first, what is kept and who is retracted is the policy's."""

    def init_schedule_policy(self):
        config = MarsConfig.from_env()
        if self.schedule_policy == config.turn_policy:
            # SGLang chose this class by the policy's name, and knows no order of that name.
            self.schedule_policy = NATIVE_UNDER_MARS
        super().init_schedule_policy()
        self.mars_book = TurnBook(turn_policy(config.turn_name))
        self.mars_book.now_s = clock.now()
        self.mars_book.itl = None if config.itl_target_s is None else ItlTarget(config.itl_target_s)
        self.mars_book.log = open_decision_log(f"dp{get_parallel().dp_rank or 0}-tp{get_parallel().tp_rank}")
        self.policy = MarsSchedulePolicy(
            self.mars_book,
            self.schedule_policy,
            self.tree_cache,
            self.enable_hierarchical_cache,
            self.enable_priority_scheduling,
            self.schedule_low_priority_values_first,
        )
        self._mars_adder_class = type("BookedPrefillAdder", (_RememberedAdder,), {"book": self.mars_book})
        self._mars_last_tick_s = float("-inf")
        self._mars_queue_grew = False
        self._mars_ran = False
        """Whether a batch was launched since the last look for a prefill."""
        self.tree_cache.attach(self.mars_book)
        self._mars_steps = StepMeter(clock.now)
        book = self.mars_book
        copies = self.server_args.hicache_write_policy != "write_back"
        book.spare_tokens = spare_tokens(self.max_total_num_tokens, self._host_tokens() or 0, copies)
        book.policy.attach(
            EngineFacts(
                capacity_tokens=self.max_total_num_tokens,
                chunk_tokens=self.chunked_prefill_size or self.max_prefill_tokens,
                prefill_s=lambda extend, prefix: book.prefill.seconds(extend, prefix),
                spare_tokens=book.spare_tokens,
            )
        )
        self._mars_stream = None
        self._mars_stream_wanted = config.stream
        self._mars_metrics = None
        if self.metrics_collector is not None:
            self._mars_metrics = SchedulerMetrics(self.metrics_collector.labels, book, self.tree_cache)
        global _scheduler
        _scheduler = self
        logger.info("mars-sglang %s: turn policy %s", __version__, self.mars_book.policy.name)

    # -- time and requests, the same on every rank ---------------------------------------------

    def _poll_timeout_aborts(self) -> list:
        # Called on rank 0 alone; what it returns is broadcast with the requests of this pass.
        local = super()._poll_timeout_aborts()
        now_s = clock.now()
        if self.waiting_queue or now_s - self._mars_last_tick_s >= IDLE_TICK_S * clock.speed():
            self._mars_last_tick_s = now_s
            local.append(ClockTick(now_s, self._mars_steps.price, self._mars_steps.decode_s))
        if self._mars_stream_wanted is not None:
            # Opened here for this runs on the one rank that has a part in the stream.
            wanted, self._mars_stream_wanted = self._mars_stream_wanted, None
            self._mars_stream = open_engine_stream(wanted, self.mars_book, self.tree_cache)
        if self._mars_metrics is not None:
            self._mars_metrics.show()
        if self._mars_stream is not None and (news := self._mars_stream.poll(self._mars_steps)):
            local.append(StreamNews(news))
        return local

    def process_input_requests(self, recv_reqs):
        requests = []
        for received in recv_reqs:
            if isinstance(received, ClockTick):
                self.mars_book.now_s = max(self.mars_book.now_s, received.now_s)
                self.mars_book.prefill, self.mars_book.decode_s = received.prefill, received.decode_s
            elif isinstance(received, StreamNews):
                for program in self.mars_book.hear(received):
                    self.tree_cache.program_ended(program)
            else:
                requests.append(received)
        return super().process_input_requests(requests)

    def _create_generation_req(self, recv_req, *args, **kwargs):
        req = super()._create_generation_req(recv_req, *args, **kwargs)
        turn = wire.take(recv_req.sampling_params.custom_params, self.mars_book.now_s)
        req.mars = self.mars_book.receive(turn)
        return req

    def _add_request_to_queue(self, req, is_retracted: bool = False):
        if not hasattr(req, "mars"):
            # Embedding requests and others that SGLang makes without the factory above.
            req.mars = self.mars_book.receive(wire.take(None, self.mars_book.now_s))
        req.mars.matched, req.mars.view = False, None
        # A pause that retracts puts turns back without saying so.
        was_retracted = is_retracted or (req.mars.prefill_s is not None and req.mars.retracted_s is None)
        if was_retracted:
            req.mars.retractions += 1
            self.mars_book.counters["turns_retracted"] += req.mars.retractions == 1
            self.mars_book.counters["retractions"] += 1
            self.mars_book.say(
                TurnRetracted,
                program=req.mars.program,
                turn=req.rid,
                output_tokens=len(req.output_ids),
                retractions=req.mars.retractions,
            )
        self.mars_book.queued(req.rid, req.mars, len(req.origin_input_ids) + len(req.output_ids))
        self._mars_queue_grew = True
        super()._add_request_to_queue(req, is_retracted=is_retracted)
        if self.enable_priority_scheduling and req.priority is not None:
            # SGLang gave one without a priority the least of all.
            req.mars.priority = req.priority if self.schedule_low_priority_values_first else -req.priority

    def _release_aborted_request(self, req):
        super()._release_aborted_request(req)
        if hasattr(req, "mars"):
            self.mars_book.dropped(req.rid, req.mars)

    # -- prefill -------------------------------------------------------------------------------

    def get_prefill_adder_class(self):
        return self._mars_adder_class

    def _should_defer_prefill(self, running_batch) -> bool:
        if super()._should_defer_prefill(running_batch):
            return True
        book = self.mars_book
        book.prefill_left_s = float("inf")
        if book.itl is None or running_batch.is_empty() or running_batch.is_prefill_only:
            return False
        book.prefill_left_s = book.itl.left_s(book.decode_s)
        if book.itl.fresh:
            return False
        prefix = self.chunked_req.extend_end if self.chunked_req is not None else 0
        return book.prefill.tokens_in(book.prefill_left_s, prefix) < max(LEAST_TOKENS, self.page_size)

    def get_new_batch_prefill(self, running_batch):
        if self._mars_queue_grew:
            # SGLang takes a full batch as full until a turn leaves. A turn that came since
            # may be one that fits: a continuation needs little.
            running_batch.batch_is_full = False
            self._mars_queue_grew = False
        self._mars_adder_class.last = None
        self.mars_book.looks += 1
        self.mars_book.running = running_batch.reqs
        if self._mars_ran or running_batch.reqs or self.chunked_req is not None:
            self.mars_book.busy_s = self.mars_book.now_s
            self._mars_ran = False
        self.tree_cache.repin(len(running_batch.reqs), more=self.chunked_req is None)
        plan = super().get_new_batch_prefill(running_batch)
        adder = self._mars_adder_class.last
        if plan.batch_to_run is not None:
            self.mars_book.batches += 1
            for req in plan.batch_to_run.reqs:
                self.tree_cache.turn_starts(req)
                self.mars_book.started(req.rid, req.mars)
        if adder is not None and adder.short_of_memory:
            # What SGLang concludes from the turn that ends its pass: retry when one leaves.
            busy = plan.batch_to_run is not None or not plan.running_batch.is_empty()
            plan.running_batch.batch_is_full = busy
        return plan

    def run_batch(self, batch, *args, **kwargs):
        self._mars_ran = True
        self._mars_steps.began()
        self._mars_launched(batch)
        return super().run_batch(batch, *args, **kwargs)

    def _mars_launched(self, batch) -> None:
        book, mode = self.mars_book, batch.forward_mode
        book.computing.append(list(batch.reqs) if mode.is_extend() else [])
        if book.itl is None:
            return
        if mode.is_decode() or mode.is_mixed():
            book.itl.decoded()
        elif mode.is_extend():
            rows = zip(batch.extend_lens, batch.prefix_lens, strict=True)
            book.itl.prefilled(sum(book.prefill.seconds(extend, prefix) for extend, prefix in rows))

    def process_batch_result(self, batch, result):
        self._mars_steps.ended(batch)
        super().process_batch_result(batch, result)
        if self.mars_book.computing:
            self.mars_book.computing.popleft()
        if batch.forward_mode.is_extend():
            for req in batch.reqs:
                if not req.mars.answering and req.output_ids:
                    req.mars.answering = True
                    self._mars_say_first_token(req)

    def _mars_say_first_token(self, req) -> None:
        turn = req.mars
        started_s = turn.queued_s if turn.prefill_s is None else turn.prefill_s
        self.mars_book.say(
            FirstToken,
            program=turn.program,
            turn=req.rid,
            prompt_tokens=len(req.origin_input_ids),
            cached_tokens=req.cached_tokens,
            queued_s=started_s - turn.queued_s,
            prefill_s=max(0.0, clock.now() - started_s),
        )

    def get_output_streamer_class(self):
        return MarsOutputStreamer

    # -- victims -------------------------------------------------------------------------------

    def get_decode_retraction_order(self, reqs) -> list[int]:
        """Indices of ``reqs``, first to keep first: SGLang retracts from the end of the list."""
        running = [
            RunningView(
                turn_id=req.rid,
                program=req.mars.program,
                context_tokens=len(req.origin_input_ids) + len(req.output_ids),
                output_tokens=len(req.output_ids),
                arrived_s=req.mars.arrived_s,
                program_arrived_s=req.mars.program_arrived_s,
                retractions=req.mars.retractions,
                priority=req.mars.priority,
            )
            for req in reqs
        ]
        self.mars_book.counters["victim_orders"] += 1
        order = self.mars_book.policy.order_victims(running, self.mars_book.now_s)[::-1]
        if self.mars_book.log is not None:
            self.mars_book.log.write("victims", self.mars_book.now_s, [reqs[i].rid for i in order])
        return order

    # -- seen from outside ---------------------------------------------------------------------

    def get_init_info(self):
        return super().get_init_info() | {
            "mars": {
                "version": __version__,
                "turn_policy": self.mars_book.policy.name,
                "pid": os.getpid(),
                "host_tokens": self._host_tokens(),
                "keeps_kv": self.mars_book.policy.keeps_kv,
            }
        }

    def _host_tokens(self) -> int | None:
        """KV tokens of the host tier; 0 where there is none, None where it has no one size."""
        controller = getattr(self.tree_cache, "cache_controller", None)
        return getattr(controller.mem_pool_host, "size", None) if controller is not None else 0

    def get_internal_state(self, recv_req):
        output = super().get_internal_state(recv_req)
        output.internal_state["mars"] = {
            "turn_policy": self.mars_book.policy.name,
            "dp_rank": get_parallel().dp_rank or 0,
            "programs": len(self.mars_book.programs),
            "retained_programs": len(self.tree_cache.retained()),
            "retained_tokens": self.tree_cache.retained_tokens(),
            "kept_programs": len(self.mars_book.kept),
            "executors": {
                name: {"age_s": self.mars_book.now_s - heard_s, "cores_used": load.cores_used, "active": load.active}
                for name, (heard_s, load) in self.mars_book.executors.items()
            },
            "predictions": len(self.mars_book.predictions),
            "stream": self._mars_stream.report() if self._mars_stream is not None else None,
            **self.mars_book.counters,
        }
        return output


class _RememberedAdder(MarsPrefillAdder):
    """An adder that leaves itself where the scheduler finds it after the pass."""

    last: MarsPrefillAdder | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        type(self).last = self


def decode_retraction_order(original, reqs) -> list[int]:
    """Around ``ScheduleBatch._get_decode_retraction_order``, which is given no scheduler."""
    return original(reqs) if _scheduler is None else _scheduler.get_decode_retraction_order(reqs)
