"""How much prefill may run between two decode steps, so that running turns keep getting tokens in time."""

#: Prompt tokens that a prefill step computes at least, so that a target nobody can keep does not stop prefills.
LEAST_TOKENS = 128


class ItlTarget:
    """Bounds the time between two tokens of a running turn (the inter-token latency) by what prefills are let run.

    It counts what steps are expected to take, and no clock, so that all ranks of an engine agree. A target shorter
    than a decode step and the prefill of :data:`LEAST_TOKENS` cannot be kept; then so much is prefilled per decode
    step.

    Args:
        target_s: seconds from one token to the next.
    """

    def __init__(self, target_s: float):
        self._target_s = target_s
        self._spent_s = 0.0

    def decoded(self) -> None:
        """A step that gives running turns a token was launched."""
        self._spent_s = 0.0

    def prefilled(self, seconds: float) -> None:
        """A step was launched that gives them none."""
        self._spent_s += seconds

    @property
    def fresh(self) -> bool:
        """Whether no prefill ran since the last decode step: then one may, however short the target is."""
        return self._spent_s <= 0

    def left_s(self, decode_s: float) -> float:
        """Seconds of prefill that may run before the next decode step, which takes ``decode_s``."""
        return max(0.0, self._target_s - decode_s - self._spent_s)
