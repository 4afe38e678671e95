"""The soak in one mode of the engine after another: pages, tree cores, overlap, LoRA, windows, linear attention.

    python -m eval.modes window linear --minutes 1.5 --out modes-out

Each mode is a server of its own under ``--scheduler-policy mars`` with admission off, so that the engine meets the
whole overload. Prints what the soak prints; the exit status is 1 where something was off in any of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eval import soak
from mars_sglang.emulation.model_folder import model_folder
from mars_sglang.emulation.profiles import load_profile

PROFILE = "l40s-llama-3.1-8b"
PYTHON_CORE = {"SGLANG_UNIFIED_RADIX_TREE_CORE_BACKEND": "python"}

_HICACHE = "--enable-hierarchical-cache --hicache-ratio 2 --hicache-io-backend direct"
#: Gated delta net, one layer in two. Small heads: a state costs a few hundred bytes.
_LINEAR = {
    "model_type": "qwen3_next", "num_hidden_layers": 2, "full_attention_interval": 2, "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 1, "linear_num_value_heads": 1,
}  # fmt: skip
#: One layer in two sees the last tokens only.
_WINDOW = {"is_hybrid_swa": True, "hybrid_layer_pattern": [1, 0], "num_hidden_layers": 2, "sliding_window": 256}
_ADAPTERS = ("first", "second", "third")
#: Further apart than the 10 from which on SGLang preempts a running turn, which it does where no more may run.
_PRIORITIES = (0, 20, 40, None)
_BY_PRIORITY = "--enable-priority-scheduling --max-running-requests 6"
#: By itself SGLang would set more memory aside for prefills of any length than there is.
_NO_CHUNKS = "--chunked-prefill-size -1 --mem-fraction-static 0.5"


@dataclass(frozen=True)
class Mode:
    """What is different from a server without arguments."""

    arguments: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    """Fields of the model's ``config.json``."""
    adapters: tuple[str, ...] = ()
    """LoRA adapters to make and load."""
    vary: dict[str, tuple] = field(default_factory=dict)
    """Fields of a program's requests, one value of each drawn by program."""


MODES = {
    "default": Mode(),
    "page-16": Mode("--page-size 16"),
    "page-64": Mode("--page-size 64"),
    "python-core": Mode(environment=PYTHON_CORE),
    "overlap": Mode("--overlap"),
    "mixed": Mode("--enable-mixed-chunk"),
    "no-chunks": Mode(_NO_CHUNKS),
    "priorities": Mode(_BY_PRIORITY, vary={"priority": _PRIORITIES}),
    "low-priorities-first": Mode(
        f"{_BY_PRIORITY} --schedule-low-priority-values-first", vary={"priority": _PRIORITIES}
    ),
    "lora": Mode(
        "--enable-lora --lora-backend torch_native --max-loras-per-batch 2",
        adapters=_ADAPTERS, vary={"lora_path": (*_ADAPTERS, None)},
    ),
    "window": Mode(model=_WINDOW),
    "window-short": Mode("--swa-full-tokens-ratio 0.2", model=_WINDOW),
    "linear": Mode("--max-mamba-cache-size 64", model=_LINEAR),
    "hicache": Mode(f"{_HICACHE} --hicache-mem-layout layer_first"),
    "hicache-write-back": Mode(f"{_HICACHE} --hicache-mem-layout layer_first --hicache-write-policy write_back"),
    "hicache-page-first": Mode(f"{_HICACHE} --hicache-mem-layout page_first_direct --page-size 16"),
    "hicache-window": Mode(f"{_HICACHE} --hicache-mem-layout layer_first", model=_WINDOW),
    "session-cache": Mode("--enable-session-radix-cache"),
    "opposites": Mode(
        f"{_BY_PRIORITY} --schedule-low-priority-values-first --page-size 64 {_NO_CHUNKS} "
        "--enable-session-radix-cache",
        vary={"priority": _PRIORITIES},
    ),
    "everything": Mode(
        f"--overlap --enable-mixed-chunk --page-size 16 {_HICACHE} --hicache-mem-layout page_first_direct "
        f"{_BY_PRIORITY} --enable-lora --lora-backend torch_native --max-loras-per-batch 2",
        environment=PYTHON_CORE,
        adapters=_ADAPTERS, vary={"lora_path": (*_ADAPTERS, None), "priority": _PRIORITIES},
    ),
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.modes", description=__doc__.splitlines()[0])
    parser.add_argument("modes", nargs="*", metavar="MODE", help=f"of {', '.join(MODES)} (all)")
    parser.add_argument("--minutes", default=1.5, type=float, metavar="M", help="of load for each (%(default)g)")
    parser.add_argument("--out", default=Path("modes-out"), type=Path, metavar="DIR", help="(%(default)s)")
    parser.add_argument(
        "--server-args", default="", metavar="ARGS", help="more arguments of each server, as one string"
    )
    options = parser.parse_args(argv)
    if unknown := [name for name in options.modes if name not in MODES]:
        parser.error(f"mode {unknown[0]!r} is unknown; known: {', '.join(MODES)}")
    status = 0
    for name in options.modes or MODES:
        print(f"\n{name}", flush=True)
        status |= run(MODES[name], options.out / name, options.minutes, options.server_args)
    return status


def run(mode: Mode, out: Path, minutes: float, more: str = "") -> int:
    """The soak's exit status in this mode; its report and the server's log are in ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    arguments = ["--mars-admission off", mode.arguments, more]
    if mode.model:
        arguments.append(f"--model-path {_model(mode.model, out / 'model')}")
    if mode.adapters:
        paths = " ".join(f"{name}={_adapter(out / 'adapters' / name)}" for name in mode.adapters)
        arguments.append(f"--lora-paths {paths} --max-lora-rank 8")
    before = {name: os.environ.get(name) for name in mode.environment}
    os.environ.update(mode.environment)
    try:
        return soak.main(
            ["--minutes", str(minutes), "--out", str(out), "--vary", json.dumps(mode.vary), "--profile", PROFILE,
             f"--server-args={' '.join(arguments)}"]
        )  # fmt: skip
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _model(fields: dict[str, Any], folder: Path) -> Path:
    """A copy of the emulated model's folder with these fields in its config."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(model_folder(load_profile(PROFILE)), folder)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | fields))
    return folder.resolve()


def _adapter(folder: Path) -> Path:
    """An adapter's config: the emulated model has no layer that would ask for its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder.resolve()


if __name__ == "__main__":
    raise SystemExit(main())
