"""Makes a step last as long as the emulated GPU would take, and records how well that went."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

#: Sleeping wakes up late by about a tenth of this on an idle machine; the rest is spun, so
#: that two cores are not burnt by waiting.
SPIN_S = 0.0003

#: A median step error above this makes the report say that the emulation cannot be trusted.
ACCEPTED_MEDIAN_ERROR = 0.05


class ErrorSketch:
    """Quantiles of relative errors in bounded memory: a histogram with buckets that grow by 5%."""

    _SMALLEST = 1e-5
    _GROWTH = math.log(1.05)
    _BUCKETS = 400

    def __init__(self) -> None:
        self.count = 0
        self._buckets = [0] * self._BUCKETS

    def add(self, error: float) -> None:
        number = int(math.log(max(error, self._SMALLEST) / self._SMALLEST) / self._GROWTH)
        self._buckets[min(number, self._BUCKETS - 1)] += 1
        self.count += 1

    def quantile(self, share: float) -> float | None:
        """The error that ``share`` of the steps stay under, to about 3%; None before the first."""
        if not self.count:
            return None
        left = share * self.count
        number = -1
        while left > 0 and number < self._BUCKETS - 1:
            number += 1
            left -= self._buckets[number]
        return self._SMALLEST * math.exp((number + 0.5) * self._GROWTH)


@dataclass(slots=True)
class StepStats:
    """Steps of one kind. Times in real seconds."""

    steps: int = 0
    behind: int = 0
    """Steps that the host reached after the emulated GPU would have finished them."""
    intended_s: float = 0.0
    real_s: float = 0.0
    host_s: float = 0.0
    """From the end of one forward to the start of the next, in back-to-back steps."""
    back_to_back: int = 0
    errors: ErrorSketch = field(default_factory=ErrorSketch)

    def report(self) -> dict:
        return {
            "steps": self.steps,
            "error_median": _rounded(self.errors.quantile(0.5)),
            "error_p90": _rounded(self.errors.quantile(0.9)),
            "behind_share": round(self.behind / self.steps, 4) if self.steps else 0.0,
            "intended_s": round(self.intended_s, 3),
            "real_s": round(self.real_s, 3),
            "host_ms_per_step": round(1000 * self.host_s / self.back_to_back, 3) if self.back_to_back else None,
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")


class StepPacer:
    """Waits inside a forward pass until the emulated GPU would be done.

    A GPU server overlaps the host's work for step n+1 with step n, so under load a step
    begins when the one before it ends, however long the host took in between::

        GPU    |== step n ==|== step n+1 ==|          emulated: ends at n and n+1 are a step apart
        host      | n+1 |                             here:     |== wait n ==|host|= wait n+1 =|

    Here the host's work comes after the wait, so it is subtracted from the next one. After an
    idle period there is nothing to hide behind and the step begins when forward is entered.

    A host that comes late once (another process had the core) makes up for it in the steps
    that follow, by at most the length of the late step, so that totals stay true.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._idle = True
        self._due_s = 0.0
        self._ended_s = 0.0
        self.reset()

    def reset(self) -> None:
        """Start the counts again."""
        self.prefill = StepStats()
        self.decode = StepStats()

    def idle(self) -> None:
        """The engine had nothing to run."""
        self._idle = True

    def wait(self, step_s: float, stats: StepStats) -> None:
        """Return ``step_s`` real seconds after the step before, or after now when that was long ago."""
        entered_s = self._clock()
        from_s = entered_s if self._idle else self._ended_s
        deadline_s = (entered_s if self._idle else self._due_s) + step_s
        if deadline_s - entered_s > SPIN_S:
            self._sleep(deadline_s - entered_s - SPIN_S)
        while (ended_s := self._clock()) < deadline_s:
            pass

        if not self._idle:
            stats.host_s += entered_s - self._ended_s
            stats.back_to_back += 1
        real_s = ended_s - from_s
        stats.steps += 1
        stats.behind += entered_s > deadline_s
        stats.intended_s += step_s
        stats.real_s += real_s
        if step_s > 0:
            stats.errors.add(abs(real_s - step_s) / step_s)
        self._idle = False
        self._due_s = max(deadline_s, ended_s - step_s)
        self._ended_s = ended_s

    def report(self) -> dict:
        """Counts, errors relative to the intended step, and whether the timing can be trusted."""
        prefill, decode = self.prefill, self.decode
        steps = prefill.steps + decode.steps
        medians = [s.errors.quantile(0.5) for s in (prefill, decode) if s.steps]
        worst = max(medians, default=0.0)
        report = {
            "ok": worst <= ACCEPTED_MEDIAN_ERROR,
            "steps": steps,
            "behind_share": round((prefill.behind + decode.behind) / steps, 4) if steps else 0.0,
            "intended_s": round(prefill.intended_s + decode.intended_s, 3),
            "real_s": round(prefill.real_s + decode.real_s, 3),
            "prefill": prefill.report(),
            "decode": decode.report(),
        }
        if not report["ok"]:
            report["problem"] = (
                f"the median step was {worst:.0%} off what the emulated GPU takes: this machine is too slow for this "
                "speed and load; lower --speed, lower the load, or take a profile with longer steps"
            )
        return report
