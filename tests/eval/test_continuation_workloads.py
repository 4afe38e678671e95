"""On the shared workloads no turn is taken for another agent's. ``python -m eval.continuation`` plays all of them."""

import pytest

from eval.continuation import at_once, chat_body, in_pairs, main, memory_bytes, text_body
from eval.workload import load

#: Long words keep the texts short; what is compared, and how often, stays the same.
WORD_TOKENS = 16.0
BODIES = pytest.mark.parametrize("body", [chat_body, text_body])
WORKLOADS = pytest.mark.parametrize("name", ["swebench", "claude-code"])


@WORKLOADS
@BODIES
@pytest.mark.parametrize("seed", [0, 1])
def test_two_agents_with_the_same_beginning_are_told_apart(name, body, seed):
    outcome = in_pairs(load(name)[seed::18], WORD_TOKENS, body, seed)
    assert outcome.wrong == 0
    assert outcome.whole_recognised == outcome.whole > 1000
    assert outcome.first > 30


@WORKLOADS
@BODIES
def test_agents_with_the_same_system_prompt_are_told_apart(name, body):
    outcome = at_once(load(name)[::10], WORD_TOKENS, body)
    assert outcome.wrong == 0
    assert outcome.whole_recognised == outcome.whole > 1000
    assert outcome.cut_recognised > 0.8 * outcome.cut


@pytest.mark.parametrize("word_tokens", [64.0])
@WORKLOADS
def test_answers_of_a_word_or_two_mislead_nobody(name, word_tokens):
    outcome = in_pairs(load(name)[3::18], word_tokens)
    assert outcome.wrong == 0
    assert outcome.whole_recognised == outcome.whole


def test_a_program_is_remembered_in_a_few_kilobytes():
    programs = load("claude-code")[::20]
    assert memory_bytes(programs) < len(programs) * 50_000


def test_the_command_reports_each_workload(capsys):
    assert main(["--workload", "swebench", "--programs", "2"]) == 0
    shown = capsys.readouterr().out
    assert "swebench, pairs" in shown
    assert "wrong 0" in shown
    assert "of tokenizing" in shown


def test_an_unknown_workload_is_an_error(capsys):
    assert main(["--workload", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
