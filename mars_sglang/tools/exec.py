"""``mars-sglang exec --program ID --tool NAME -- command ...``: a command as it is, and reported.

The command is a child in the same process group with the same files. This process only waits: it
passes on each signal that was for it alone, stops when the command stops, and ends as it ended.
"""

import argparse
import errno
import itertools
import os
import signal
import sys
from collections.abc import Callable, Sequence

from mars_sglang import clock
from mars_sglang.tools.description import describe

_NOT_EXECUTABLE, _NOT_FOUND = 126, 127

#: What a terminal sends to the whole group, and so to the command as well.
_FROM_TERMINAL = {
    signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH, signal.SIGHUP,
}  # fmt: skip
_JOB_CONTROL = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
_SHELLS = {"sh", "bash", "dash", "zsh", "ksh"}
_PR_SET_PDEATHSIG = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; the exit status, if this process is not ended by the command's own signal."""
    options, command = _parse(sys.argv[1:] if argv is None else argv)
    try:
        description = describe(options.program, options.tool, _command_line(command), api_key=options.api_key)
    except ValueError as error:
        print(f"mars-sglang exec: error: {error}", file=sys.stderr)
        return 2
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    started_s = clock.now()
    child, failure = _start(command, mask)
    if failure:
        os.waitpid(child, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        print(f"mars-sglang exec: {command[0]}: {os.strerror(failure)}", file=sys.stderr)
        return _NOT_FOUND if failure in (errno.ENOENT, errno.ENOTDIR) else _NOT_EXECUTABLE
    report_end = _report(description, options.address, started_s)
    status = _wait(child)
    report_end(_error(status))
    if not os.WIFSIGNALED(status):
        return os.WEXITSTATUS(status)
    return _die_by(os.WTERMSIG(status))


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="mars-sglang exec",
        usage="mars-sglang exec --program ID --tool NAME [--address ADDRESS] [--api-key KEY] -- COMMAND ...",
        description="Run a command and report it as a tool call. Input, output, signals and exit status are the "
        "command's own; where no sidecar is, nothing is reported.",
    )
    parser.add_argument("--program", required=True, help="the id that the agent's requests carry")
    parser.add_argument("--tool", required=True, help="name of the tool, as the model called it")
    parser.add_argument("--address", help="of the sidecar; by default $MARS_SGLANG_TOOLS, else this user's own")
    parser.add_argument("--api-key", help="the agent's key at the server; by default $MARS_SGLANG_API_KEY")
    arguments = list(argv)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:end])
    if end + 1 >= len(arguments):
        parser.error("no command; write it after --")
    return options, arguments[end + 1 :]


def _report(description: dict[str, str | None], address: str | None, started_s: float) -> Callable[[str | None], None]:
    """Report the start; what is returned reports the end."""
    try:
        # Loaded while the command runs already.
        from mars_sglang.tools.call import ToolCall
        from mars_sglang.tools.channel import Channel
    except ImportError as error:
        print(f"mars-sglang exec: the command is not reported: {error}", file=sys.stderr)
        return lambda error: None
    channel = Channel(address)
    call = ToolCall(description, channel)
    call.start(started_s)

    def end(error: str | None) -> None:
        call.end(error)
        channel.close()

    return end


def _command_line(command: list[str]) -> str:
    """What the command's name is to be read from: of ``bash -c LINE``, the line."""
    if os.path.basename(command[0]) in _SHELLS:
        for option, value in itertools.pairwise(command[1:]):
            if not option.startswith("-"):
                break
            if "c" in option and not option.startswith("--"):
                return value
    return " ".join(command)


def _start(command: list[str], mask: set[int]) -> tuple[int, int]:
    """Start the command: its process id, and 0 or the error number with which it could not be started."""
    import ctypes

    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    parent = os.getpid()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        failure = errno.ENOEXEC
        try:
            # Who kills a tool that takes too long kills this process, and means the command.
            if prctl is not None:
                prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
            if os.getppid() != parent:
                os._exit(_NOT_EXECUTABLE)
            # Python ignores these, and a child would too.
            for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(ignored, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            _execute(command)
        except OSError as error:
            failure = error.errno
        finally:
            os.write(writing, failure.to_bytes(4))
            os._exit(_NOT_EXECUTABLE)
    os.close(writing)
    failure = int.from_bytes(os.read(reading, 4))
    os.close(reading)
    return child, failure


def _execute(command: list[str]) -> None:
    try:
        os.execvp(command[0], command)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        # A script without a first line that names its shell: execvp(3) runs it with sh, Python's does not.
        import shutil

        os.execv("/bin/sh", ["sh", shutil.which(command[0]) or command[0], *command[1:]])


def _wait(child: int) -> int:
    """Wait for the command's end; its wait status."""
    while True:
        info = signal.sigwaitinfo(signal.valid_signals())
        if info.si_signo == signal.SIGCHLD:
            found, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
            if found and not os.WIFSTOPPED(status):
                return status
            if found and os.WSTOPSIG(status) in _JOB_CONTROL:
                _stop_by(os.WSTOPSIG(status))
        elif _is_for_us_alone(info, child):
            os.kill(child, info.si_signo)


def _is_for_us_alone(info: signal.struct_siginfo, child: int) -> bool:
    if info.si_code <= 0:
        return info.si_pid != child
    # Of a terminal that hangs up, the leader of its session is told first.
    leads = info.si_signo == signal.SIGHUP and os.getsid(0) == os.getpid()
    return leads or info.si_signo not in _FROM_TERMINAL


def _stop_by(number: int) -> None:
    """Stop as the command did, so that the shell sees its job stopped; returns when it goes on."""
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})


def _error(status: int) -> str | None:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        known = number in signal.Signals.__members__.values()
        return f"killed by {signal.Signals(number).name if known else f'signal {number}'}"
    return None if os.WEXITSTATUS(status) == 0 else f"exit status {os.WEXITSTATUS(status)}"


def _die_by(number: int) -> int:
    import resource

    # The command has left its core file already.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    return 128 + number


if __name__ == "__main__":
    sys.exit(main())
