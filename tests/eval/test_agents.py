"""Real agents, unmodified, on the real server; skipped where the agents are not installed."""

import time
from contextlib import ExitStack

import pytest

from eval.agents.session import Session
from eval.agents.task import TaskError, write_scripts
from eval.agents.tasks import TASKS
from eval.agents.wire import Wire
from tests.installed_agents import needs
from tests.serving import Server, emulated_server


def test_agent_that_is_not_installed_is_named_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("MARS_AGENTS_OPENHANDS_PYTHON", str(tmp_path / "none"))
    with pytest.raises(TaskError, match=r"openhands-sdk is not installed.*install_agents\.sh"):
        Session(TASKS["durations"], "openhands", "http://127.0.0.1:9", tmp_path / "repository")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    scripts = tmp_path_factory.mktemp("scripts")
    write_scripts(TASKS, scripts)
    flags = ("--scripts", str(scripts), "--scheduler-policy", "mars")
    with emulated_server(tmp_path_factory.mktemp("server"), *flags) as server:
        yield server


class Programs:
    """The programs that the server came to know since this was made."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before = {program["program"] for program in self._state()}

    def _state(self) -> list[dict]:
        return self._server.get("/mars/state?programs=1000")["programs"]

    def wait_for(self, *turns: int) -> list[dict]:
        """The new programs, once they have these numbers of turns or a few seconds are over."""
        deadline = time.monotonic() + 10
        while True:
            new = [program for program in self._state() if program["program"] not in self._before]
            if sorted(program["turns"] for program in new) == sorted(turns) or time.monotonic() > deadline:
                return new
            time.sleep(0.1)


IDENTITY_WORDS = ("session", "program", "conversation", "thread", "cache_key", "cache-key", "user_id", "metadata")


@pytest.mark.server
@needs("openhands")
@pytest.mark.parametrize("task", ["durations", "invoices"])
def test_openhands_session_is_one_program_turn_by_turn(server, task, tmp_path):
    task = TASKS[task]
    programs = Programs(server)
    with Wire(server.url) as wire, Session(task, "openhands", wire.url, tmp_path / "repository") as session:
        outcome = session.wait()
    assert outcome.report["ended"] == "finished", outcome.log[-4000:]
    assert outcome.passed
    turns = len(task.steps)
    assert outcome.report["turns"] == len(wire.sent) == turns

    conversation = outcome.report["conversation"]
    assert {sent.headers.get("x-litellm-session-id") for sent in wire.sent} == {conversation}
    assert {sent.body.get("prompt_cache_key") for sent in wire.sent} == {conversation}

    [program] = programs.wait_for(turns)
    assert program["turns"] == turns
    assert program["program"].endswith(f"/{conversation}")
    assert program["recognised_by"] == "header x-litellm-session-id"
    assert [call["tool"] for call in program["tools"]] == ["finish"]


@pytest.mark.server
@needs("mini")
@pytest.mark.parametrize(("form", "task"), [("mini", "durations"), ("mini_textbased", "invoices")])
def test_mini_swe_agent_session_is_one_program_turn_by_turn_without_an_id(server, form, task, tmp_path):
    task = TASKS[task]
    programs = Programs(server)
    with Wire(server.url) as wire, Session(task, form, wire.url, tmp_path / "repository") as session:
        outcome = session.wait()
    assert outcome.report["ended"] == "Submitted", outcome.log[-4000:]
    assert outcome.passed
    turns = len(task.steps)
    assert outcome.report["turns"] == len(wire.sent) == turns
    for sent in wire.sent:
        names = [*sent.headers, *sent.body]
        assert not [name for name in names if any(word in name for word in IDENTITY_WORDS)]

    [program] = programs.wait_for(turns)
    assert program["turns"] == turns
    assert program["recognised_by"] == "continuation"
    # The last step is a command too, with a call in one form and a fenced block in the other.
    assert [call["command"] for call in program["tools"]] == ["echo"]


@pytest.fixture(scope="module")
def twins(server, tmp_path_factory):
    """The programs that two sessions of one task became, at once and with the same prompts and answers."""
    task = TASKS["durations"]
    programs = Programs(server)
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(Session(task, "mini", server.url, tmp_path_factory.mktemp(name) / "repository"))
            for name in ("one", "other")
        ]
        assert all(session.wait().passed for session in sessions)
    return programs.wait_for(len(task.steps), len(task.steps))


@pytest.mark.server
@needs("mini")
def test_no_program_has_turns_of_two_mini_swe_agents_with_the_same_beginning(twins):
    turns = len(TASKS["durations"].steps)
    assert {program["recognised_by"] for program in twins} == {"continuation"}
    assert sum(program["turns"] for program in twins) == 2 * turns
    assert len(twins) >= 2
    assert max(program["turns"] for program in twins) <= turns


@pytest.mark.server
@needs("mini")
def test_two_mini_swe_agents_with_the_same_beginning_are_two_programs(twins):
    assert [program["turns"] for program in twins] == [len(TASKS["durations"].steps)] * 2
