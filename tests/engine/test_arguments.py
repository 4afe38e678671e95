"""Our flags on the way from the command line to the server."""

import argparse
from types import SimpleNamespace

import pytest

pytest.importorskip("sglang")

from sglang.srt.server_args import ServerArgs

from mars_sglang.config import ConfigError, MarsConfig, with_options
from mars_sglang.engine import arguments
from mars_sglang.engine.recognition import Recognition

GOOD = '[[source]]\nheader = "X-Acme-Run"\nlevel = "program"\n'
BAD = [
    ('[[source]]\nheader = "a"\nlevel = "boss"', "source 1: level = 'boss'; accepted: program, child, root, parent"),
    ('[[source]]\nbody = 3\nlevel = "program"', "source 1: body = 3; accepted: field names"),
    ("replace = 1", "replace = 1; accepted: true, false"),
    ("colour = 1", "colour is unknown; accepted: replace, source"),
    ("[[source", "accepted: a TOML file with [[source]] tables"),
]


@pytest.fixture(autouse=True)
def nothing_of_ours_in_the_environment(monkeypatch):
    monkeypatch.delenv("MARS_SGLANG_CONFIG", raising=False)


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "ids.toml"
        path.write_text(text)
        return str(path)

    return write


def parsed(*argv):
    """The command line through SGLang's parser with our flags, up to the arguments of the server."""
    parser = argparse.ArgumentParser()
    arguments._add_cli_args(ServerArgs.add_cli_args, parser)
    namespace = parser.parse_args(["--model-path", "m", *argv])
    return arguments._from_cli_args(lambda cls, args: args, ServerArgs, namespace)


@pytest.mark.parametrize(("text", "says"), BAD)
def test_a_bad_file_is_refused_with_flag_file_key_value_and_what_is_accepted(written, text, says):
    path = written(text)
    wanted = {"model_path": "m", "mars_identity": path, "mars_control": "off"}
    with pytest.raises(ConfigError) as raised:
        arguments.engine_server_args(SimpleNamespace, wanted)
    assert str(raised.value).startswith(f"--mars-identity {path}: ")
    assert says in str(raised.value)
    assert MarsConfig.from_env() is None, "no process is to start with it"


@pytest.mark.parametrize(("text", "says"), BAD)
def test_on_the_command_line_it_is_a_short_message_and_status_2(written, capsys, text, says):
    path = written(text)
    with pytest.raises(SystemExit) as ended:
        parsed("--mars-identity", path, "--mars-control", "off")
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"mars-sglang: error: --mars-identity {path}: ") and says in said
    assert "Traceback" not in said


def test_a_file_that_is_not_there_is_refused_too(tmp_path, capsys):
    missing = str(tmp_path / "none.toml")
    with pytest.raises(SystemExit):
        parsed("--mars-identity", missing)
    said = capsys.readouterr().err
    assert f"--mars-identity {missing!r} is not a file; accepted: a TOML file" in said


def test_a_good_file_is_taken_and_names_programs(written, monkeypatch):
    path = written(GOOD)
    monkeypatch.chdir("/")
    config = with_options(None, {"mars_identity": path, "mars_control": "off"}, auto_address=lambda: "never asked")
    assert config.identity == path
    assert arguments._host_arguments(config, {}) == {}
    found = Recognition(config).identify("t", {"messages": []}, {"x-acme-run": "r"})
    assert (found.program, found.recognised_by) == ("r", "header x-acme-run")


# -- admission


@pytest.fixture
def activated(monkeypatch):
    """What would be handed to the server's processes; nothing is installed."""
    configs = []
    monkeypatch.setattr(arguments, "_activate", configs.append)
    return configs


def test_admission_flags_reach_the_server(tmp_path, activated):
    tenants = tmp_path / "tenants.toml"
    tenants.write_text("[tenants]\nteam = { weight = 3 }\n")
    given = ["--mars-max-waiting", "8", "--mars-max-admission-wait", "2.5", "--mars-tenants", str(tenants)]
    parsed("--mars-admission", "footprint", "--mars-control", f"ipc://{tmp_path}/c", *given)
    (config,) = activated
    assert (config.turn_policy, config.admission) == (None, "footprint")
    assert (config.max_waiting, config.max_admission_wait_s, config.tenant_weights) == (8, 2.5, {"@team": 3.0})


def test_an_engine_without_http_takes_the_same_arguments(tmp_path, activated):
    wanted = {"mars_admission": "window:2", "mars_max_waiting": "8", "mars_control": f"ipc://{tmp_path}/c"}
    server_args = arguments.engine_server_args(SimpleNamespace, {"model_path": "m", **wanted})
    assert vars(server_args) == {"model_path": "m"}, "none of ours is left for SGLang"
    assert (activated[0].admission, activated[0].max_waiting) == ("window:2", 8)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--mars-max-waiting", "8"), "--mars-max-waiting needs an admission policy; give --mars-admission too"),
        (("--mars-admission", "mars", "--mars-control", "off"), "that --mars-control off turns off"),
        (("--mars-admission", "mars", "--mars-max-admission-wait", "soon"), "is 'soon'; accepted: a number of seconds"),
        (("--mars-admission", "thunder", "--mars-objective", "mean"), "--mars-objective is for --scheduler-policy"),
        (("--mars-admission", "nope"), "also accepted: off"),
    ],
)
def test_a_mistake_in_them_is_a_short_message_and_status_2(capsys, argv, says):
    with pytest.raises(SystemExit) as ended:
        parsed(*argv)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("mars-sglang: error: --mars-") and says in said and "Traceback" not in said
