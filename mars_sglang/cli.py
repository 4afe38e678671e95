"""``mars-sglang``: one subcommand per thing a person does from a shell."""

import sys
from collections.abc import Callable, Sequence

_USAGE = """usage: mars-sglang COMMAND [arguments]

commands:
  emulate   start the real SGLang server with the timing of a GPU that is not there
  doctor    check that this SGLang has everything that MARS needs, without a server

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
    return command(arguments[1:])


def _emulate(argv: Sequence[str]) -> int:
    from mars_sglang.emulation.launch import main as emulate

    return emulate(argv)


def _doctor(argv: Sequence[str]) -> int:
    from mars_sglang.engine.doctor import main as doctor

    return doctor(argv)


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"emulate": _emulate, "doctor": _doctor}

if __name__ == "__main__":
    sys.exit(main())
