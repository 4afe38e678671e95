import argparse
import json

import pytest

from mars_sglang.clock import SPEED_ENV
from mars_sglang.emulation import EMULATION_ENV
from mars_sglang.emulation.launch import main, server_arguments, server_environment
from mars_sglang.emulation.profiles import list_profiles, load_profile


def parsed(*server_args: str) -> argparse.Namespace:
    """What SGLang's parser, which takes a flag's last value, makes of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-path", "--model")
    parser.add_argument("--max-total-tokens", type=int)
    parser.add_argument("--chunked-prefill-size", type=int)
    arguments = server_arguments(load_profile("l40s-llama-3.1-8b"), 1234, "folder", server_args)
    return parser.parse_known_args(arguments)[0]


def test_profile_sets_what_the_user_did_not():
    args = parsed("--port", "31000")
    assert (args.model_path, args.max_total_tokens, args.chunked_prefill_size) == ("folder", 1234, 4096)


@pytest.mark.parametrize("given", [["--max-total-tokens", "99"], ["--max-total-tokens=99"], ["--max-total", "99"]])
def test_flag_of_the_user_wins_however_it_is_written(given):
    assert parsed(*given).max_total_tokens == 99


def test_overlap_scheduling_is_off_unless_asked_for():
    profile = load_profile("l40s-llama-3.1-8b")
    assert "--disable-overlap-schedule" in server_arguments(profile, 1234, "folder")
    assert "--disable-overlap-schedule" not in server_arguments(profile, 1234, "folder", overlap=True)


def test_environment_carries_profile_and_speed_and_keeps_the_rest(tmp_path):
    environment = server_environment({"HOME": "/h", "OMP_NUM_THREADS": "3"}, "h200-qwen3-coder-30b", 4.0)
    assert json.loads(environment[EMULATION_ENV]) == {"profile": "h200-qwen3-coder-30b"}
    assert float(environment[SPEED_ENV]) == 4.0
    assert environment["HOME"] == "/h"
    assert environment["OMP_NUM_THREADS"] == "3", "the user's own choice stays"
    assert environment["MKL_NUM_THREADS"] == "1"


def test_path_of_a_profile_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = server_environment({}, "mine.toml", 1.0)
    assert json.loads(environment[EMULATION_ENV]) == {"profile": str(tmp_path / "mine.toml")}


def test_list_of_profiles_names_each(capsys):
    assert main(["--list-profiles"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in list_profiles())
    assert "641,072" in printed


def test_unknown_profile_is_an_error_that_lists_the_known(capsys):
    assert main(["--profile", "nope"]) == 2
    printed = capsys.readouterr().err
    assert "'nope' is unknown" in printed and "h200-qwen3-coder-30b" in printed


@pytest.mark.parametrize("speed", ["0", "-1", "fast", "inf", "nan"])
def test_speed_must_be_above_zero(speed, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--speed", speed])
    assert stopped.value.code == 2
    assert "--speed: is" in capsys.readouterr().err
