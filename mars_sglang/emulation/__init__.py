"""The real SGLang server with the timing of a GPU that is not there.

This module stays import-light: SGLang calls :func:`activate` in every process of every
server on a machine where the package is installed, emulated or not.
"""

import os

#: JSON ``{"profile": NAME}``, set by ``mars-sglang emulate`` for the server's processes.
EMULATION_ENV = "MARS_SGLANG_EMULATION"
PLATFORM_NAME = "mars_emulated"


def activate() -> str | None:
    """Entry point in SGLang's platform group: the platform class, or None when not emulating."""
    if not os.environ.get(EMULATION_ENV):
        return None
    return "mars_sglang.emulation.platform.EmulatedPlatform"
