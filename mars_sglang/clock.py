"""The one clock. Every time that a policy, the gate or a report sees comes from here."""

import os
import time

SPEED_ENV = "MARS_SGLANG_SPEED"


def speed() -> float:
    """How many seconds of our clock pass in one real second; 1 outside emulation."""
    return float(os.environ.get(SPEED_ENV, "1"))


def now() -> float:
    """Seconds since an arbitrary start, comparable between the processes of one host.

    Emulation sets :data:`SPEED_ENV` before it starts the server, so that an emulated
    GPU that runs X times faster than real meets tool times and ageing that do too.
    """
    return time.monotonic() * speed()
