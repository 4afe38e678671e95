"""The loop of the sidecar: load at each interval, tool calls as they come, everything again when asked."""

import contextlib
import logging
import os
import time
from collections.abc import Callable

from mars_sglang import clock
from mars_sglang.sidecar.calls import Calls
from mars_sglang.sidecar.listener import Listener, ToolsAddressTaken
from mars_sglang.sidecar.load import LoadReader
from mars_sglang.sidecar.reports import MalformedReport, OversizedReport, decode
from mars_sglang.stream.events import ExecutorLoad, Heartbeat
from mars_sglang.stream.publisher import Publisher
from mars_sglang.stream.resync import Resync, state_parts
from mars_sglang.stream.subscriber import Subscriber
from mars_sglang.tools.process import is_gone

logger = logging.getLogger(__name__)

#: The control process takes a source that is silent for 1.2 s for dead, so it is listened to this often.
_LISTEN_S = 0.25
_SWEEP_S = 0.5
#: Messages taken in one window; the rest waits with its senders. Below the 5,000 events in a
#: second that the control process takes of one source.
_WINDOW_S, _WINDOW_MESSAGES = 0.1, 400
#: A table of calls up to this long is saved as it changes, a longer one at each report.
_SAVED_AT_ONCE = 256
_WARN_EVERY_S = 60.0
_RETRY_S = 2.0


class Sidecar:
    """One run of the sidecar."""

    def __init__(
        self,
        executor: str,
        loads: LoadReader,
        publisher: Publisher,
        subscriber: Subscriber,
        listen: Callable[[], Listener],
        *,
        interval_s: float,
        slots: int | None = None,
        authorization: str | None = None,
        calls: Calls,
    ):
        """Read the load once, so that the first report can tell its use.

        Args:
            listen: binds the socket of tools; tried again where :meth:`listen` failed.
            authorization: of the tenant whose agents send Dynamo's frames.
        """
        self.dropped = {"malformed": 0, "oversized": 0, "delayed": 0}
        """Messages that were no report or too large, and windows in which more came than is taken."""
        self._executor = executor
        self._loads = loads
        self._publisher = publisher
        self._subscriber = subscriber
        self._resync = Resync(publisher.source)
        self._open_listener = listen
        self._listener: Listener | None = None
        self._interval_s = interval_s
        self._slots = slots
        self._authorization = authorization
        self._calls = calls
        self._speed = clock.speed()
        self._warned: dict[str, int] = dict(self.dropped)
        self._next_warning_s = 0.0
        self._loads.read(self._real_s())

    def run(self, until: Callable[[], bool]) -> None:
        """Work until ``until()``, which is asked at least every 0.25 s."""
        now_s = self._real_s()
        next_report_s, next_try_s = now_s + self._interval_s, now_s + _RETRY_S
        next_sweep_s = window_s = now_s
        budget = _WINDOW_MESSAGES
        # Who has told its state once is missed when it goes without a word.
        self._tell_state()
        while not until():
            now_s = self._real_s()
            if self._listener is None and now_s >= next_try_s:
                with contextlib.suppress(ToolsAddressTaken, OSError, ValueError):
                    self.listen()
                    self._tell_state()
                next_try_s = now_s + _RETRY_S
            if now_s >= next_report_s:
                self._report(now_s)
                next_report_s = max(next_report_s + self._interval_s, now_s)
            if now_s >= next_sweep_s:
                self._publish(self._calls.sweep(is_gone, clock.now()))
                next_sweep_s = now_s + _SWEEP_S
            self._answer()
            if now_s >= window_s:
                budget, window_s = _WINDOW_MESSAGES, now_s + _WINDOW_S
            wait_s = max(0.0, min(next_report_s, now_s + _LISTEN_S) - self._real_s())
            if self._listener is None:
                time.sleep(wait_s)
            elif budget == 0:
                time.sleep(max(0.0, min(wait_s, window_s - now_s)))
            elif self._listener.wait(wait_s + 0.0005):
                budget -= self._take(budget)
                self.dropped["delayed"] += budget == 0
                if self._calls.changed and len(self._calls) <= _SAVED_AT_ONCE:
                    self._save()

    def close(self) -> None:
        """Say goodbye; calls that run still are kept for a sidecar after this."""
        if self._listener is not None:
            if self._calls.changed:
                self._save()
            self._listener.close()
        self._publisher.close()
        self._subscriber.close()
        logger.info("stopped: %s", self._counts())

    def _take(self, budget: int) -> int:
        taken = 0
        while taken < budget and (frames := self._listener.receive()) is not None:
            taken += 1
            try:
                report = decode(frames, authorization=self._authorization, speed=self._speed)
            except OversizedReport:
                self.dropped["oversized"] += 1
            except MalformedReport:
                self.dropped["malformed"] += 1
            else:
                self._publish(self._calls.take(report, clock.now()))
        return taken

    def _report(self, now_s: float) -> None:
        self._publisher.publish(
            ExecutorLoad,
            executor=self._executor,
            slots=self._slots,
            active=self._calls.active,
            queued=self._calls.queued,
            wait_s=self._calls.wait_s,
            service_s=self._calls.service_s,
            **self._loads.read(now_s)._asdict(),
        )
        if self._calls.changed:
            self._save()
        if self.dropped != self._warned and now_s >= self._next_warning_s:
            logger.warning("messages of tools that are not taken as they come: %s", self._counts())
            self._warned, self._next_warning_s = dict(self.dropped), now_s + _WARN_EVERY_S

    def _counts(self) -> str:
        return ", ".join(f"{name} {count}" for name, count in self.dropped.items())

    def _answer(self) -> None:
        for received in self._subscriber.receive():
            if isinstance(received.event, Heartbeat) and self._resync.due(received.event):
                self._tell_state()

    def _tell_state(self) -> None:
        self._publish(state_parts("sidecar", tool_calls=self._calls.states()))

    def _publish(self, events) -> None:
        for event in events:
            self._publisher.publish(event)

    def _real_s(self) -> float:
        return clock.now() / self._speed

    # -- the socket of tools, and the calls of a sidecar that was killed ------------------------

    def listen(self) -> None:
        """Open the socket of tools, and take over the calls of the sidecar that had it before.

        Raises:
            ToolsAddressTaken, AddressError, KeysError, OSError: of :class:`Listener`.
        """
        self._listener = self._open_listener()
        logger.info("tools report to %s", self._listener.address.text)
        path = self._saved()
        if path is None:
            return
        try:
            with open(path, "rb") as file:
                self._calls.load(file.read())
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            logger.warning("the calls of the sidecar before are lost: %s", error)

    def _saved(self) -> str | None:
        folder = None if self._listener is None else self._listener.address.folder
        return None if folder is None else f"{folder}/tools.state"

    def _save(self) -> None:
        self._calls.changed = False
        path = self._saved()
        if path is None:
            return
        try:
            with open(f"{path}.new", "wb") as file:
                file.write(self._calls.save())
            os.replace(f"{path}.new", path)
        except OSError as error:
            logger.warning("calls in flight cannot be kept for a sidecar after this: %s", error)
