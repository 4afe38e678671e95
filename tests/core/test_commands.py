"""The word that a shell command spends its time in."""

import pytest

from mars_sglang.core.commands import MAX_NAME_CHARACTERS, command_word, fenced_command


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("ls -la", "ls"),
        ("cd /repo && python -m pytest -q tests | tail -5", "pytest"),
        ("PYTHONPATH=. timeout 60 /usr/bin/python3.11 setup.py build", "python"),
        ("cd /a; export X=1; make -j2", "make"),
        ("sudo -E apt-get install -y gcc", "apt-get"),
        ("timeout --signal=KILL 5m cargo test", "cargo"),
        ("# a remark\ngrep -rn foo .", "grep"),
        ("cat <<'EOF' > a.py\nprint(1)\nEOF", "cat"),
        ("(cd x && ./run.sh)", "run.sh"),
        ("cd /repo", None),
        ("", None),
        ("   \n", None),
        ("x" * 1000, "x" * MAX_NAME_CHARACTERS),
    ],
)
def test_the_command_that_takes_the_time(line, word):
    assert command_word(line) == word


def test_the_last_shell_block_is_the_command():
    text = "First I looked:\n```python\nx = 1\n```\nNow:\n```bash\ncd /r && pytest\n```\n"
    assert fenced_command(text) == "cd /r && pytest"


@pytest.mark.parametrize("text", ["no block", "```python\nx\n```", "```bash\nunfinished", "```bash\n\n```"])
def test_no_command_block(text):
    assert fenced_command(text) is None
