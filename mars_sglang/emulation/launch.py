"""``mars-sglang emulate``: SGLang's own server, on a GPU that is not there."""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mars_sglang.clock import SPEED_ENV
from mars_sglang.core.cost_model import CostModel, Profile, ProfileError
from mars_sglang.emulation import EMULATION_ENV, PLATFORM_NAME
from mars_sglang.emulation.model_folder import cache_folder, model_folder
from mars_sglang.emulation.profiles import list_profiles, load_profile
from mars_sglang.emulation.script import ScriptFileError, Scripts

DEFAULT_PROFILE = "h200-qwen3-coder-30b"


def main(argv: Sequence[str] | None = None) -> int:
    """Become the server process, or say on stderr why not (2)."""
    parser = _parser()
    own, server_args = parser.parse_known_args(argv)
    if own.list_profiles:
        print(profile_table())
        return 0
    try:
        profile = load_profile(own.profile)
        capacity_tokens = CostModel(profile).kv_capacity_tokens
        if own.scripts is not None:
            Scripts.load(own.scripts)
    except (ProfileError, ScriptFileError) as error:
        print(f"mars-sglang emulate: {error}", file=sys.stderr)
        return 2
    arguments = server_arguments(profile, capacity_tokens, str(model_folder(profile)), server_args, own.overlap)
    environment = server_environment(os.environ, own.profile, own.speed, own.scripts)
    sys.stdout.flush()
    command = [sys.executable, "-m", "sglang.launch_server", *arguments]
    os.execve(sys.executable, command, environment)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mars-sglang emulate",
        description="Start SGLang's own server with the timing of a GPU that is not there. "
        "Every other flag goes to SGLang and wins over what the profile sets.",
        # An abbreviation could be a flag of SGLang's.
        allow_abbrev=False,
    )
    parser.add_argument(
        "--profile", default=DEFAULT_PROFILE, metavar="NAME", help="a known profile or a .toml file (%(default)s)"
    )
    parser.add_argument(
        "--speed", default=1.0, type=_speed, metavar="X", help="how many times faster than real time runs (1)"
    )
    parser.add_argument("--scripts", metavar="FOLDER", help="of .toml or .json files with answers; docs/emulation.md")
    parser.add_argument("--overlap", action="store_true", help="leave overlap scheduling on; docs/emulation.md")
    parser.add_argument("--list-profiles", action="store_true", help="print the known profiles and exit")
    return parser


def _speed(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"is {text!r}; accepted: a number above 0")
    return value


def server_arguments(
    profile: Profile, capacity_tokens: int, model_path: str, server_args: Sequence[str] = (), overlap: bool = False
) -> list[str]:
    """The command line of ``sglang.launch_server``.

    What the profile sets comes first: SGLang's parser takes the last value of a flag, so the
    user's own, under any of its names, wins.
    """
    return [
        "--model-path", model_path,
        "--served-model-name", profile.model.name,
        "--load-format", "dummy",
        "--device", "cpu",
        "--max-total-tokens", str(capacity_tokens),
        "--chunked-prefill-size", str(profile.chunked_prefill_tokens),
        "--max-running-requests", str(profile.max_running_requests),
        # The wait inside the forward pass already hides the host's work as overlap would.
        *(() if overlap else ("--disable-overlap-schedule",)),
        # The emulated model writes calls in this format, and its chat template reads them.
        "--tool-call-parser", "qwen",
        # Usage then says how many prompt tokens were cached.
        "--enable-cache-report",
        *server_args,
    ]  # fmt: skip


def server_environment(
    base: Mapping[str, str], profile: str, speed: float, scripts: str | None = None
) -> dict[str, str]:
    """The environment of the server's processes. ``profile`` may be a file's path, ``scripts`` is a folder's."""
    settings = {"profile": str(Path(profile).resolve()) if profile.endswith(".toml") else profile}
    if scripts is not None:
        settings["scripts"] = str(Path(scripts).resolve())
    threads = {
        # Nothing is computed; more threads would only fight over the cores that pace the steps.
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    kept = dict(base)
    if kept.pop("PYTHONDONTWRITEBYTECODE", None):
        # Starting is mostly importing, in three processes, and compiling 10,000 files each time
        # doubles it. Kept apart, so that nothing is written beside the sources all the same.
        kept.setdefault("PYTHONPYCACHEPREFIX", str(cache_folder() / "bytecode"))
    return {
        **threads,
        **kept,
        EMULATION_ENV: json.dumps(settings),
        SPEED_ENV: repr(speed),
        "SGLANG_PLATFORM": PLATFORM_NAME,
        "SGLANG_EXTERNAL_MODEL_PACKAGE": "mars_sglang.emulation.models",
    }


def profile_table() -> str:
    """The known profiles with what a step takes, one line each."""
    rows = [("profile", "KV tokens", "prefill, 8k tokens", "decode, 8 x 8k", "decode, 32 x 16k", "what it is")]
    for name in list_profiles():
        cost = CostModel(load_profile(name))
        rows.append(
            (
                name,
                f"{cost.kv_capacity_tokens:,}",
                f"{1000 * cost.prefill_s(8192):.0f} ms",
                _decode_ms(cost, 8, 8192),
                _decode_ms(cost, 32, 16384),
                cost.profile.description,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _decode_ms(cost: CostModel, batch: int, context_tokens: int) -> str:
    if batch * context_tokens > cost.kv_capacity_tokens:
        return "does not fit"
    return f"{1000 * cost.decode_step_s(batch, batch * context_tokens):.1f} ms"
