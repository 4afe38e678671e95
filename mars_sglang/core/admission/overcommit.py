"""How much of a program's footprint counts while it is inside a tool, tuned by what the engine computes again."""

#: Share of time that the engine may compute again what it had computed, for the sake of programs that need not wait.
#: Simulations: .02 to .1 are alike.
AGAIN_SHARE = 0.03

#: Least weight, and change of the weight in a second. Slow against the minutes that programs take to come and go.
LEAST, STEP = 0.7, 0.002


class Overcommit:
    """A weight in [:data:`LEAST`, 1], which rests where :data:`AGAIN_SHARE` of the time goes into computing again.

    Programs inside tools are not all back at one time, so the memory holds more of them than fit. While something is
    held the weight falls; each second of the engine's that goes into computing again takes back what it fell in
    ``1 / AGAIN_SHARE`` seconds. While nothing is held it rises.
    """

    def __init__(self):
        self.weight = 1.0
        self._heard_s: float | None = None

    def observe_again(self, seconds: float) -> None:
        """The engine computed again for so many seconds."""
        self.weight = min(1.0, self.weight + STEP / AGAIN_SHARE * seconds)

    def observe(self, held: bool, now_s: float) -> None:
        """Whether something is held now."""
        if self._heard_s is not None:
            step = STEP * max(0.0, now_s - self._heard_s)
            self.weight = max(LEAST, self.weight - step) if held else min(1.0, self.weight + step)
        self._heard_s = now_s
