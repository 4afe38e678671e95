"""SGLang calls :func:`load` in every process of every server where the package is installed.

So this module imports nothing heavy, and does nothing unless something of ours was asked
for: by a flag on the command line, by the parent process, or by an argument of ``Engine``.
"""

import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mars_sglang.emulation import EMULATION_ENV

#: Carries the configuration to the server's child processes. SGLang loads plugins there
#: before any of its own arguments arrive, so an environment variable is the one way in.
CONFIG_ENV = "MARS_SGLANG_CONFIG"

#: Beginnings of our option strings; one of them on a command line wakes the plugin.
FLAGS = ("--scheduler-policy", "--mars-")

_ENGINE_MODULE = "sglang.srt.entrypoints.engine"


def load() -> None:
    """Entry point in SGLang's plugin group.

    SGLang logs what a plugin raises and serves on without it. Whoever asked for MARS must
    not get a server without it, so then an error here ends the process; and whoever did not
    ask must not lose a server to it, so then SGLang may log it.
    """
    try:
        _load()
    except Exception as error:
        flags = any(arg.startswith(FLAGS) for arg in sys.argv[1:])
        if not (flags or CONFIG_ENV in os.environ or EMULATION_ENV in os.environ):
            raise
        print(f"mars-sglang: error: the plugin failed to load: {error!r}", file=sys.stderr, flush=True)
        raise SystemExit(3) from error


def _load() -> None:
    if os.environ.get(EMULATION_ENV):
        from mars_sglang.emulation import hooks

        hooks.register()

    if multiprocessing.parent_process() is None:
        # A program started by a tool under a MARS server inherits its environment, not its flags.
        os.environ.pop(CONFIG_ENV, None)
    elif CONFIG_ENV in os.environ:
        from mars_sglang.config import MarsConfig
        from mars_sglang.engine.install import install_or_exit

        install_or_exit(MarsConfig.from_env(), launches=False)
        return

    if _ENGINE_MODULE in sys.modules:
        _accept_engine_arguments(sys.modules[_ENGINE_MODULE])
    if asked_on_command_line(sys.argv[1:]):
        from mars_sglang.engine import arguments

        arguments.register()


def asked_on_command_line(argv: Sequence[str]) -> bool:
    """Whether a flag of ours may be among these arguments, or in the config file they name.

    ``--help`` counts: it has to show our flags.
    """
    # argparse accepts unambiguous prefixes, so "--scheduler-pol" is a flag of ours too.
    prefixes = (*FLAGS, "--scheduler")
    for i, arg in enumerate(argv):
        if arg in ("-h", "--help") or arg.startswith(prefixes):
            return True
        if arg == "--config" or arg.startswith("--config="):
            path = arg.partition("=")[2] or "".join(argv[i + 1 : i + 2])
            try:
                text = Path(path).read_text(encoding="utf-8").replace("_", "-")
            except OSError:
                continue  # SGLang reports an unreadable config file itself
            if any(flag.lstrip("-") in text for flag in FLAGS):
                return True
    return False


def _accept_engine_arguments(engine_module) -> None:
    """Let ``Engine(scheduler_policy=...)`` through, by the attribute that SGLang offers for it.

    ``Engine`` loads plugins first and makes its ``ServerArgs`` next, through a class
    attribute that forks may set. Ours passes everything on untouched when no argument is
    ours, so no hook is needed to look.
    """
    engine_class = engine_module.Engine
    native = engine_class.server_args_class

    def server_args(**kwargs):
        if not any(name == "scheduler_policy" or name.startswith("mars_") for name in kwargs):
            # An engine made before this one in the same process may have asked.
            os.environ.pop(CONFIG_ENV, None)
            return native(**kwargs)
        from mars_sglang.engine.arguments import engine_server_args

        return engine_server_args(native, kwargs)

    if not getattr(native, "accepts_mars_arguments", False):
        server_args.accepts_mars_arguments = True
        engine_class.server_args_class = staticmethod(server_args)
