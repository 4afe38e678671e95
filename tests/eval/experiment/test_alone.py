"""The time of a program alone, against sums worked out step by step."""

import pytest

from eval.experiment.alone import Alone, reusable, reusable_tokens
from mars_sglang.core.cost_model import CostModel
from mars_sglang.emulation.profiles import list_profiles, load_profile
from tests.eval.builders import program, turn


@pytest.mark.parametrize("name", list_profiles())
def test_a_turn_costs_its_chunks_and_one_step_per_further_token(name):
    profile = load_profile(name)
    cost, chunk = CostModel(profile), profile.chunked_prefill_tokens
    prompt, cached, output = 2 * chunk + 300, 100, 700
    chunks = [(chunk, 100), (chunk, 100 + chunk), (200, 100 + 2 * chunk)]
    by_hand = sum(cost.prefill_s(*part) for part in chunks)
    by_hand += sum(cost.decode_step_s(1, prompt + token) for token in range(1, output))
    assert Alone(profile).turn_s(prompt, cached, output) == pytest.approx(by_hand, rel=1e-9)


def test_one_token_of_output_costs_no_decode_step():
    profile = load_profile("l40s-llama-3.1-8b")
    assert Alone(profile).turn_s(500, 0, 1) == CostModel(profile).prefill_s(500)


def test_a_program_keeps_its_history_and_its_pauses_are_cut():
    profile = load_profile("l40s-llama-3.1-8b")
    alone = Alone(profile)
    both = program(turn(1000, 50, tool_s=90.0), turn(1200, 30, tool_s=None))
    # Of the second prompt 1000 + 50 tokens were there; the KV of the answer's last token was never computed.
    expected = alone.turn_s(1000, 0, 50) + 60 + alone.turn_s(1200, 1049, 30)
    assert alone.program_s(both, max_pause_s=60) == pytest.approx(expected)


def test_a_rewritten_history_is_only_cached_as_far_as_it_is_kept():
    before = turn(1000, 50)
    assert reusable(before, turn(1200)) == 1049
    assert reusable(before, turn(1200, reuse_tokens=300)) == 300
    # Within a block of the whole prompt: nothing was rewritten.
    assert reusable(before, turn(1200, reuse_tokens=960)) == 1049
    # The last token of a prompt is always computed.
    assert reusable(before, turn(800)) == 799
    assert reusable(None, turn(800)) == 0


def test_shared_openings_count_from_the_second_program_on():
    one = program(turn(5000), id="a", tool_tokens=2000, system_tokens=500)
    assert reusable_tokens((one,)) == 0
    # Equal tools: all of them and the shorter system prompt; other tools: the shorter ones.
    same = program(turn(5000), id="b", tool_tokens=2000, system_tokens=300)
    other = program(turn(5000), id="c", tool_tokens=1500, system_tokens=500)
    none = program(turn(5000), id="d")
    assert reusable_tokens((one, same, other, none)) == 2300 + 1500
