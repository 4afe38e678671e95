"""What a shell command runs: the word that tells a half-second ``ls`` from a ten-minute ``pytest``."""

import re

#: Longest name kept. Names come from a model's output, so they are bounded.
MAX_NAME_CHARACTERS = 64

#: Commands whose first argument that is no option says what really runs.
_WRAPPERS = {"sudo", "time", "nice", "nohup", "env", "exec", "stdbuf", "ionice", "command"}
#: The same with a duration before it.
_TIMED_WRAPPERS = {"timeout"}
#: What prepares for a command and takes no time itself.
_PREPARATIONS = {"cd", "export", "set", "source", ".", "pushd", "umask", "ulimit"}
_INTERPRETERS = re.compile(r"python[\d.]*$")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_SEPARATORS = re.compile(r"&&|\|\||[;\n|]")
_FENCE = re.compile(r"```([\w+.-]*)[ \t]*\r?\n(.*?)\n?[ \t]*```", re.DOTALL)
_SHELL_FENCES = {"", "bash", "sh", "shell", "console", "zsh", "mswea_bash_command"}


def command_word(command: str) -> str | None:
    """The program that a shell command line spends its time in, without its folder; None if there is none.

    ``cd /repo && PYTHONPATH=. timeout 60 python -m pytest -q | tail`` is ``pytest``. The first
    command that is no preparation counts; quoting is not interpreted, for a name is all that
    is wanted and a wrong one costs a coarser prediction.
    """
    for part in _SEPARATORS.split(command[:4096]):
        words = part.split()
        word = _first_program(words)
        if word is not None and word not in _PREPARATIONS:
            return word
    return None


def _first_program(words: list[str]) -> str | None:
    skip_duration = False
    for i, word in enumerate(words):
        if word.startswith("#"):
            return None
        if word.startswith("-") or _ASSIGNMENT.match(word):
            continue
        if skip_duration:
            skip_duration = False
            continue
        name = word.strip("\"'(){}").rsplit("/", 1)[-1][:MAX_NAME_CHARACTERS]
        if not name or not name.isprintable():
            continue
        if name in _WRAPPERS or name in _TIMED_WRAPPERS:
            skip_duration = name in _TIMED_WRAPPERS
            continue
        if _INTERPRETERS.match(name):
            after = words[i + 1 : i + 3]
            if len(after) == 2 and after[0] == "-m":
                return after[1][:MAX_NAME_CHARACTERS]
            return "python"
        return name
    return None


def fenced_command(text: str) -> str | None:
    """The command block with which an agent without tool calls asks for a shell; None if there is none.

    The last block counts: such agents reason first and act last.
    """
    if "```" not in text:
        return None
    for name, block in reversed(_FENCE.findall(text)):
        if name.lower() in _SHELL_FENCES and block.strip():
            return block
    return None
