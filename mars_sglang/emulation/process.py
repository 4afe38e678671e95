"""What the hooks and the model of one scheduler process share."""

import json
import logging
import os
from functools import cache

from mars_sglang.clock import speed
from mars_sglang.core.cost_model import CostModel
from mars_sglang.emulation import EMULATION_ENV
from mars_sglang.emulation.dictation import Dictation
from mars_sglang.emulation.pacing import StepPacer, StepStats
from mars_sglang.emulation.profiles import load_profile

logger = logging.getLogger(__name__)

_LOG_EVERY_STEPS = 5000


class EmulatedGpu:
    """One GPU that is not there: what a step costs on it, and what came of waiting that long."""

    def __init__(self, cost: CostModel, speed: float, pacer: StepPacer) -> None:
        self.cost = cost
        self.speed = speed
        self.pacer = pacer
        self.dictation: Dictation | None = None
        """Set by the model, which knows the end token."""
        self._steps = 0
        self._loading_tokens = 0

    def load_from_host(self, tokens: int) -> None:
        """KV of so many tokens is on its way from host memory to the step that comes next."""
        self._loading_tokens += tokens

    def run_step(self, step_s: float, stats: StepStats) -> None:
        """Take the time of a step that computes for ``step_s`` on the GPU."""
        if self._loading_tokens:
            # Layer by layer, the load runs beneath the computation of the layers before.
            step_s = max(step_s, self.cost.host_transfer_s(self._loading_tokens))
            self._loading_tokens = 0
        self.pacer.wait(step_s / self.speed, stats)
        self._steps += 1
        if self._steps % _LOG_EVERY_STEPS == 0:
            report = self.pacer.report()
            decode = report["decode"]
            (logger.info if report["ok"] else logger.warning)(
                "emulation: %d steps, decode error median %s p90 %s, host behind in %.1f%% of steps%s",
                report["steps"],
                decode["error_median"],
                decode["error_p90"],
                100 * report["behind_share"],
                "" if report["ok"] else "; " + report["problem"],
            )

    def report(self) -> dict:
        return {"profile": self.cost.profile.name, "speed": self.speed} | self.pacer.report()


@cache
def emulated_gpu() -> EmulatedGpu:
    """The GPU of this process, from the environment that ``mars-sglang emulate`` set."""
    profile = load_profile(json.loads(os.environ[EMULATION_ENV])["profile"])
    return EmulatedGpu(CostModel(profile), speed(), StepPacer())
