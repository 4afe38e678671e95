"""Prompts are as long as traced, extend the real history, and are cut where the trace was."""

import asyncio
import json

import pytest

from eval.replay.conversation import Conversation
from eval.replay.filler import Filler, SharedText
from eval.replay.ruler import Ruler, measure
from eval.workload import load
from tests.eval.builders import program, turn


def count(messages, per_word=1.0, base=3, each=4):
    """Tokens of a prompt on a server whose words take ``per_word`` tokens."""
    return base + sum(each + round(per_word * len(m["content"].split())) for m in messages)


def replay(traced, per_word=1.0, answer_word=" fine", ruler=None, seed=0):
    """Plays ``traced`` against such a server: the messages of each prompt, and their token counts."""
    talk = Conversation(traced, seed, ruler or Ruler(per_word=per_word), SharedText())
    prompts = []
    for t in traced.turns:
        asked = talk.ask(t)
        messages = json.loads(asked.messages)
        tokens = count(messages, per_word)
        prompts.append((messages, tokens, asked.kept_tokens))
        talk.answered(answer_word * t.out_tokens, tokens, t.out_tokens)
    return prompts


def test_growing_history_is_extended_to_the_token():
    traced = program(turn(200, 20), turn(300, 30), turn(500, 10))
    prompts = replay(traced)
    assert [tokens for _, tokens, _ in prompts] == [200, 300, 500]
    first, second, third = (messages for messages, _, _ in prompts)
    assert second[:1] == first
    assert second[1] == {"role": "assistant", "content": " fine" * 20}
    assert third[: len(second)] == second


def test_wrong_ruler_does_not_add_up():
    traced = program(*(turn(1000 + 200 * i, 50) for i in range(30)))
    prompts = replay(traced, per_word=1.3, ruler=Ruler(per_word=1.0))
    last = prompts[-1][1]
    assert last == pytest.approx(traced.turns[-1].in_tokens, rel=0.03)


@pytest.mark.parametrize("name", ["swebench", "claude-code"])
def test_recorded_programs_come_out_within_two_percent(name):
    for traced in sorted(load(name), key=lambda p: p.turns[-1].in_tokens)[:12]:
        for (_, tokens, _), t in zip(replay(traced), traced.turns, strict=True):
            assert tokens == pytest.approx(t.in_tokens, rel=0.02)


def test_compaction_rewrites_the_tail():
    traced = program(turn(1000, 50, 0), turn(1200, 50, 960), turn(800, 50, 400), turn(1000, 50, 768))
    prompts = replay(traced)
    assert [tokens for _, tokens, _ in prompts] == [1000, 1200, 800, 1000]
    whole, cut = prompts[1][0][0]["content"], prompts[2][0][0]["content"]
    shared = sum(a == b for a, b in zip(whole.split(), cut.split(), strict=False))
    assert shared == pytest.approx(400, abs=12)
    assert prompts[2][2] == 400
    # 768 of 800 is the whole of it, in blocks of 64: nothing is rewritten.
    assert prompts[3][0][: len(prompts[2][0])] == prompts[2][0]


def test_prompt_shorter_than_its_history_loses_the_end():
    traced = program(turn(1000, 400), turn(1100, 10), turn(900, 10))
    prompts = replay(traced)
    assert [tokens for _, tokens, _ in prompts] == [1000, 1100, 900]
    first, second, third = (messages for messages, _, _ in prompts)
    assert second[0] == first[0]
    assert 0 < len(second[1]["content"].split()) < 400
    assert [m["role"] for m in third] == ["user"]


def test_reuse_of_nothing_starts_afresh():
    traced = program(turn(500, 10, 0), turn(600, 10, 0), tool_tokens=50, system_tokens=50)
    first, second = replay(traced)
    assert second[1] == 600
    assert second[0][0]["content"] != first[0][0]["content"]
    assert second[2] == 0


def test_programs_share_their_prefix_and_nothing_else():
    a, b = (replay(program(turn(500), id=name, tool_tokens=100, system_tokens=40))[0][0] for name in "ab")
    assert a[0] == b[0]
    assert a[0]["role"] == "system"
    assert a[1] != b[1]
    other = replay(program(turn(500), id="c", tool_tokens=90, system_tokens=40))[0][0]
    assert other[0]["content"].split()[:90] == a[0]["content"].split()[:90]


def test_text_is_seeded_by_program():
    assert Filler(0, "a").words(50) == Filler(0, "a").words(50)
    assert Filler(0, "a").words(50) != Filler(1, "a").words(50)
    assert Filler(0, "a").words(50) != Filler(0, "b").words(50)


def test_answers_that_need_escapes_come_back_whole():
    talk = Conversation(program(turn(100), turn(200)), 0, Ruler(), SharedText())
    talk.ask(turn(100))
    talk.answered('say "hi"\n\\ \u00e9', 100, 10)
    messages = json.loads(talk.ask(turn(200)).messages)
    assert messages[1]["content"] == 'say "hi"\n\\ \u00e9'


def test_cut_inside_an_answer_with_escapes_is_valid_json():
    for keep in range(100, 160, 3):
        talk = Conversation(program(turn(100)), 0, Ruler(), SharedText())
        talk.ask(turn(100))
        talk.answered('a "b" \n c \\ d ' * 20, 100, 80)
        assert json.loads(talk.ask(turn(keep)).messages)


def test_ruler_finds_the_constants_of_a_server():
    async def ask(messages):
        # A template with a system prompt of its own, of 30 tokens, where none is given.
        own = 0 if messages[0][0] == "system" else 30
        return own + count([{"content": c.decode()} for _, c in messages], per_word=1.25, base=7, each=6)

    ruler = asyncio.run(measure(ask, seed=0))
    assert ruler.per_word == pytest.approx(1.25)
    assert ruler.base == pytest.approx(37)
    assert ruler.user + ruler.assistant == pytest.approx(12)
    assert ruler.system == pytest.approx(-24)
