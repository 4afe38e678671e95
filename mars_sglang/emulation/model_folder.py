"""The folder that an emulated server loads as its model: a tokenizer trained here, and a config.

Nothing is downloaded. The tokenizer is a byte-level BPE over sources of the standard library
and :data:`WORDS`, made once and kept under the user's cache folder.
"""

import hashlib
import importlib.util
import json
import os
import tempfile
from pathlib import Path

from mars_sglang.core.cost_model import Profile
from mars_sglang.emulation.words import WORDS

ARCHITECTURE = "MarsEmulatedForCausalLM"
END_OF_TURN = "<|im_end|>"
_SPECIAL = ("<|endoftext|>", "<|im_start|>", END_OF_TURN)

#: Small, because sampling costs host time in proportion; large enough for prose and code of
#: about 3.5 characters a token.
VOCAB = 8000

#: Part of the folder's name: raise it when this file makes something different.
_RECIPE = 2

#: Read as text, never imported. Pure Python, long-lived, with prose in them.
_SOURCES = (
    "argparse", "ast", "asyncio.base_events", "calendar", "collections", "configparser", "csv", "datetime", "decimal",
    "difflib", "doctest", "email.message", "enum", "fractions", "functools", "gettext", "heapq", "http.client",
    "http.server", "inspect", "ipaddress", "json.decoder", "logging", "mailbox", "mimetypes", "optparse", "os",
    "pathlib", "pdb", "pickle", "platform", "pprint", "random", "shutil", "smtplib", "socket", "sqlite3.dump",
    "statistics", "string", "subprocess", "tarfile", "tempfile", "textwrap", "threading", "traceback", "typing",
    "unittest.case", "unittest.mock", "urllib.parse", "urllib.request", "uuid", "warnings", "zipfile",
)  # fmt: skip


def cache_folder() -> Path:
    """Where what can be made again is kept; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mars-sglang"


def model_folder(profile: Profile) -> Path:
    """The folder for this profile, made on first use. Safe when several processes race for it."""
    text = _training_text()
    config = _config(profile)
    template = (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8")
    digest = hashlib.sha256()
    for part in (str(_RECIPE), str(VOCAB), *WORDS, json.dumps(config), template, *text):
        digest.update(part.encode() + b"\0")
    root = cache_folder()
    folder = root / f"emulated-{digest.hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix="making-") as temporary:
        made = Path(temporary) / "model"
        _save_tokenizer(made, text, template, profile)
        (made / "config.json").write_text(json.dumps(config | {"emulated": _output_ids(made)}), encoding="utf-8")
        try:
            made.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same content
                raise
    return folder


def _config(profile: Profile) -> dict:
    """One layer with one small KV head, so that a pool of a million tokens costs 32 MB."""
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": profile.model.context_tokens,
        "vocab_size": VOCAB,
        "bos_token_id": None,
        "eos_token_id": VOCAB - len(_SPECIAL) + _SPECIAL.index(END_OF_TURN),
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": True,
    }


def _training_text() -> list[str]:
    found = []
    for name in _SOURCES:
        try:
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.origin and spec.origin.endswith(".py"):
                found.append(Path(spec.origin).read_text(encoding="utf-8"))
        except (ImportError, OSError, UnicodeDecodeError):
            continue  # Not every installation has every module; the words alone would do.
    return found


def _save_tokenizer(folder: Path, text: list[str], template: str, profile: Profile) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    # Specials last: the ids of ordinary tokens then start at 0, as in most vocabularies.
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - len(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Each word often enough that its merges come before those of any rarer text.
    words = " ".join(WORDS)
    repeated = [f" {words}\n{chr(10).join(WORDS)}\n"] * 2000
    tokenizer.train_from_iterator([*repeated, *text], trainer)
    tokenizer = _renumbered(tokenizer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=_SPECIAL[0],
        additional_special_tokens=["<|im_start|>"],
        # The default removes spaces before punctuation: text would not come back as the same tokens.
        clean_up_tokenization_spaces=False,
        model_max_length=profile.model.context_tokens,
    )
    fast.chat_template = template
    fast.save_pretrained(folder)


def _renumbered(tokenizer):
    """The trained tokenizer with unused ids filled, so that specials have the same ids everywhere."""
    from tokenizers import AddedToken, Tokenizer

    document = json.loads(tokenizer.to_str())
    vocab = document["model"]["vocab"]
    for number in range(len(vocab), VOCAB - len(_SPECIAL)):
        vocab[f"<|unused_{number}|>"] = number
    result = Tokenizer.from_str(json.dumps(document))
    result.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL])
    return result


def tool_call_text(name: str, arguments: dict) -> str:
    """A tool call as the emulated model's chat template writes it, for ``emulate_text``."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments, ensure_ascii=False)}}}\n</tool_call>'


def _output_ids(folder: Path) -> dict[str, list[int]]:
    """What the model needs to know of its tokenizer: ids of words, and of tokens that end a line.

    After a line break a word has no leading space; elsewhere it has one. So an answer is
    tokenized in the next turn's history as it was generated.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    spaced = [tokenizer.encode(" " + word).ids for word in WORDS]
    bare = [tokenizer.encode(word).ids for word in WORDS]
    if long := [word for word, ids in zip(WORDS, spaced, strict=True) if len(ids) != 1]:
        raise ValueError(f"the trained tokenizer splits {long[0]!r}; every word of WORDS must be one token")
    return {
        "words": [ids[0] for ids in spaced],
        "bare_words": [ids[0] for ids in bare if len(ids) == 1],
        "line_ends": [number for number in range(VOCAB) if tokenizer.decode([number]).endswith("\n")],
    }
