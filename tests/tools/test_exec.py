"""``mars-sglang exec``: nothing but the report tells that it was there."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from mars_sglang.stream.events import ToolEnded, ToolFailed
from mars_sglang.tools.messages import CallStarted
from tests.sidecar.running import folder, until
from tests.tools.test_call import Reports

EXEC = [sys.executable, "-m", "mars_sglang.tools.exec", "--program", "p", "--tool", "bash"]

TRAP = """
import os, signal, sys, time
got = []
def caught(number, frame):
    got.append(number)
    print(signal.Signals(number).name, flush=True)
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), caught)
print("ready", flush=True)
sys.stdin.readline()
print("end", len(got), flush=True)
sys.exit(7)
"""


@pytest.fixture
def place():
    with folder() as path:
        yield path


def as_in_the_foreground() -> None:
    # Tests that run in the background of a script ignore it, and so would all that they start.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(place: str, *command: str, stdin: bytes = b"", options: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*EXEC, "--address", f"ipc://{place}", *options, "--", *command], input=stdin, capture_output=True, timeout=30,
        preexec_fn=as_in_the_foreground,
    )  # fmt: skip


def start(place: str, *command: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [*EXEC, "--address", f"ipc://{place}", "--", *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def trapped(place: str, *signals: str, **options) -> subprocess.Popen:
    running = start(place, sys.executable, "-c", TRAP, *signals, **options)
    assert running.stdout.readline() == "ready\n"
    return running


def test_output_is_the_commands_own_byte_for_byte(place):
    result = run(place, "bash", "-c", r"printf 'a\0\377\n'; printf 'e\r' >&2")
    assert (result.stdout, result.stderr, result.returncode) == (b"a\0\xff\n", b"e\r", 0)


def test_input_is_the_commands_own(place):
    blob = bytes(range(256)) * 2000
    assert run(place, "cat", stdin=blob).stdout == blob


@pytest.mark.parametrize("code", [0, 1, 3, 126, 127, 255])
def test_exit_status(place, code):
    assert run(place, "bash", "-c", f"exit {code}").returncode == code


def test_a_command_that_is_not_there_or_cannot_run(place, tmp_path):
    missing = run(place, "no-such-command")
    assert missing.returncode == 127 and b"no-such-command" in missing.stderr
    (tmp_path / "plain").write_text("text")
    assert run(place, str(tmp_path / "plain")).returncode == 126
    assert run(place, str(tmp_path)).returncode == 126


def test_a_script_that_names_no_shell_runs_as_it_would(place, tmp_path):
    script = tmp_path / "script"
    script.write_text("echo $0 $1; exit 4\n")
    script.chmod(0o755)
    result = run(place, str(script), "x")
    assert (result.stdout, result.returncode) == (f"{script} x\n".encode(), 4)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGINT, signal.SIGPIPE])
def test_death_by_a_signal_is_the_same_death(place, number):
    result = run(place, "bash", "-c", f"kill -{number.value} $$")
    assert result.returncode == -number


def test_a_broken_pipe_ends_the_command_as_it_would(place):
    line = " ".join([*EXEC, "--address", f"ipc://{place}", "-- yes"])
    result = subprocess.run(
        ["bash", "-c", f"{line} | head -1; echo ${{PIPESTATUS[0]}}"], capture_output=True, timeout=30
    )
    assert result.stdout == b"y\n141\n"


@pytest.mark.parametrize(
    "name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGALRM"]
)
def test_a_signal_to_the_wrapper_reaches_the_command_once(place, name):
    running = trapped(place, name)
    running.send_signal(getattr(signal, name))
    assert running.stdout.readline() == f"{name}\n"
    assert running.communicate("\n", timeout=20)[0] == "end 1\n"
    assert running.returncode == 7


def test_a_signal_that_ends_the_command_ends_the_wrapper(place):
    running = start(place, "bash", "-c", "echo ready; exec sleep 60")
    running.stdout.readline()
    running.terminate()
    assert running.wait(20) == -signal.SIGTERM
    running.communicate()


def test_who_kills_the_wrapper_kills_the_command(place):
    running = start(place, "bash", "-c", "echo $$; exec sleep 60")
    command = int(running.stdout.readline())
    running.kill()
    running.wait()
    until(lambda: not os.path.exists(f"/proc/{command}"), "the command to end too")
    running.communicate()


def test_stopping_and_going_on(place):
    running = start(place, "bash", "-c", "echo ready; read line; echo got $line", process_group=0)
    running.stdout.readline()
    os.kill(running.pid, signal.SIGTSTP)
    _, status = os.waitpid(running.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGTSTP
    os.kill(running.pid, signal.SIGCONT)
    assert running.communicate("x\n", timeout=20)[0] == "got x\n"
    assert running.returncode == 0


def test_a_command_stopped_by_somebody_else_does_not_hold_the_wrapper(place):
    running = start(place, "bash", "-c", "echo $$; read line; exit 5")
    command = int(running.stdout.readline())
    os.kill(command, signal.SIGSTOP)
    os.kill(command, signal.SIGCONT)
    running.communicate("x\n", timeout=20)
    assert running.returncode == 5


def test_a_terminals_interrupt_reaches_the_command_once(place):
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [*EXEC, "--address", f"ipc://{place}", "--", sys.executable, "-c", TRAP, "SIGINT"])
    seen = b""

    def read(what: bytes) -> None:
        nonlocal seen
        end = time.monotonic() + 20
        while what not in seen and time.monotonic() < end:
            seen += os.read(terminal, 1000)
        assert what in seen

    read(b"ready")
    os.write(terminal, b"\x03")
    read(b"SIGINT")
    os.write(terminal, b"\n")
    read(b"end 1")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    os.close(terminal)


def test_signal_mask_and_ignored_signals_are_as_they_were(place):
    show = ("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")
    plain = subprocess.run(show, capture_output=True, preexec_fn=as_in_the_foreground)
    assert run(place, *show).stdout == plain.stdout


def test_it_is_reported(place):
    reports = Reports(f"ipc://{place}")
    run(place, "bash", "-c", "cd / && ls -d /", options=("--api-key", "key"))
    run(place, "bash", "-lc", "exit 3")
    run(place, "sleep", "0")
    run(place, "bash", "-c", "kill -TERM $$")
    found = reports.wait_for(8)
    ends = [report for report in found if not isinstance(report, CallStarted)]
    assert [report.command for report in ends] == ["ls", "exit", "sleep", "kill"]
    assert isinstance(ends[0], ToolEnded) and ends[0].program.endswith("/p") and ends[0].duration_s > 0
    assert [report.error for report in ends if isinstance(report, ToolFailed)] == ["exit status 3", "killed by SIGTERM"]
    reports.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no command"),
        (["--"], "no command"),
        (["true"], "unrecognized"),
        (["--program", "", "--", "true"], "1 to 256 printable characters"),
    ],
)
def test_wrong_arguments_run_nothing(arguments, said):
    result = subprocess.run([*EXEC, *arguments], capture_output=True, text=True, timeout=30)
    assert result.returncode == 2 and said in result.stderr
