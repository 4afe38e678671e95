import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars_sglang.emulation.model_folder import model_folder, tool_call_text
from mars_sglang.emulation.profiles import load_profile
from mars_sglang.emulation.words import WORDS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield model_folder(load_profile("l40s-llama-3.1-8b"))
    patch.undo()


@pytest.fixture(scope="module")
def tokenizer(folder):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(folder)


@pytest.fixture(scope="module")
def emulated(folder):
    return json.loads((folder / "config.json").read_text())["emulated"]


def prompt_ids(tokenizer, messages, **rest) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **rest)
    return tokenizer.encode(text, add_special_tokens=False)


def test_folder_is_made_once_and_leaves_nothing_else(folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent.parent))
    assert model_folder(load_profile("l40s-llama-3.1-8b")) == folder
    assert list(folder.parent.iterdir()) == [folder]


def test_there_are_enough_words_and_each_is_one_token(tokenizer):
    assert len(set(WORDS)) == len(WORDS) >= 256
    for word in WORDS:
        assert len(tokenizer.encode(" " + word, add_special_tokens=False)) == 1


def test_end_of_turn_is_the_end_token_of_tokenizer_and_config(folder, tokenizer):
    config = json.loads((folder / "config.json").read_text())
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == tokenizer.eos_token_id == config["eos_token_id"]
    assert len(tokenizer) == config["vocab_size"]


def test_words_that_the_model_says_are_never_special(tokenizer, emulated):
    special = set(tokenizer.all_special_ids)
    assert not special & {*emulated["words"], *emulated["bare_words"]}
    assert len(emulated["bare_words"]) >= 256


@given(first=st.integers(0), following=st.lists(st.integers(0), max_size=60), question=st.text("ab \n", min_size=1))
def test_answer_comes_back_as_the_tokens_that_were_generated(tokenizer, emulated, first, following, question):
    bare, words = emulated["bare_words"], emulated["words"]
    output = [bare[first % len(bare)], *(words[number % len(words)] for number in following)]
    messages = [{"role": "user", "content": question}]
    before = prompt_ids(tokenizer, messages)
    assert before[-1] in emulated["line_ends"]
    messages += [{"role": "assistant", "content": tokenizer.decode(output)}, {"role": "user", "content": "next"}]
    assert prompt_ids(tokenizer, messages)[: len(before) + len(output)] == before + output


def test_dictated_tool_call_comes_back_as_the_tokens_that_were_generated(tokenizer):
    tools = [{"type": "function", "function": {"name": "run", "parameters": {"type": "object"}}}]
    arguments = {"command": 'ls -la "é" <&>', "n": [1, {"a": None}]}
    messages = [{"role": "system", "content": " be brief "}, {"role": "user", "content": "go"}]
    before = prompt_ids(tokenizer, messages, tools=tools)
    output = tokenizer.encode("I look.\n" + tool_call_text("run", arguments), add_special_tokens=False)
    call = {"id": "1", "type": "function", "function": {"name": "run", "arguments": arguments}}
    messages += [
        {"role": "assistant", "content": "I look.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "  a file\n"},
    ]
    after = prompt_ids(tokenizer, messages, tools=tools)
    assert after[: len(before) + len(output)] == before + output
    assert "<tool_response>\n  a file\n\n</tool_response>" in tokenizer.decode(after)


def test_contents_are_not_stripped(tokenizer):
    assert "user\n  spaced \n<|im_end|>" in tokenizer.decode(
        prompt_ids(tokenizer, [{"role": "user", "content": "  spaced \n"}])
    )
