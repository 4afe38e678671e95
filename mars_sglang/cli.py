"""``mars-sglang``: one subcommand per thing a person does from a shell."""

import importlib
import sys
from collections.abc import Sequence

_USAGE = """usage: mars-sglang COMMAND [arguments]

commands:
  emulate   start the real SGLang server with the timing of a GPU that is not there
  doctor    check that this SGLang has everything that MARS needs, without a server
  exec      run a command as a tool call of a program: start, end and exit code go to the stream
  replay    decide again what a recorded stream decided, and compare
  timeline  write a recorded stream as a trace for Perfetto or Chrome
  keys      make CURVE keys for a stream over TCP
  bench     run experiments in the simulator or on emulated servers, report on them, compare two

mars-sglang COMMAND --help tells more. A server on a GPU needs no command of ours:
  python -m sglang.launch_server --model-path MODEL --scheduler-policy mars
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script; the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        from mars_sglang import __version__

        print(__version__)
        return 0
    command = _COMMANDS.get(arguments[0])
    if command is None:
        print(f"mars-sglang: error: unknown command {arguments[0]!r}; known: {', '.join(_COMMANDS)}", file=sys.stderr)
        return 2
    return importlib.import_module(command).main(arguments[1:])


#: Where the ``main`` of each command is. Imported when it is asked for: emulating takes seconds
#: to import, and ``exec`` stands before every tool call.
_COMMANDS = {
    "emulate": "mars_sglang.emulation.launch",
    "doctor": "mars_sglang.engine.doctor",
    "exec": "mars_sglang.tools.exec",
    "replay": "mars_sglang.control.replay",
    "timeline": "mars_sglang.stream.timeline",
    "keys": "mars_sglang.stream.keys",
    "bench": "eval.experiment.command",
}

if __name__ == "__main__":
    sys.exit(main())
