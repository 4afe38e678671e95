"""The flags: what they select, and what they refuse."""

import pytest

from mars_sglang.config import (
    ConfigError,
    MarsConfig,
    StreamConfig,
    check_supported,
    instance,
    resolve,
    with_options,
)
from mars_sglang.plugin import asked_on_command_line
from mars_sglang.stream.address import Address

NATIVE = ("fcfs", "lpm", "hrrn")


@pytest.mark.parametrize(
    ("scheduler_policy", "schedule_policy", "admission", "native", "config"),
    [
        (None, None, None, None, None),
        (None, "lpm", None, "lpm", None),
        (None, "lpm", "off", "lpm", None),
        ("lpm", None, None, "lpm", None),
        ("lpm", "lpm", None, "lpm", None),
        ("mars", None, None, None, MarsConfig("mars", "mars")),
        ("mars", None, "off", None, MarsConfig("mars", "off")),
        ("fcfs", None, "mars", "fcfs", MarsConfig(None, "mars")),
        (None, "hrrn", "mars", "hrrn", MarsConfig(None, "mars")),
        ("lpm", None, "window:8", "lpm", MarsConfig(None, "window:8")),
        ("mars", None, "thunder", None, MarsConfig("mars", "thunder")),
        ("lpm", None, "footprint", "lpm", MarsConfig(None, "footprint")),
        ("lpm", None, "mars:tail", "lpm", MarsConfig(None, "mars:tail")),
    ],
)
def test_what_is_on(scheduler_policy, schedule_policy, admission, native, config):
    assert resolve(scheduler_policy, schedule_policy, admission, NATIVE) == (native, config)


@pytest.mark.parametrize(
    ("scheduler_policy", "schedule_policy", "admission", "message"),
    [
        ("nope", None, None, r"--scheduler-policy 'nope' is unknown; known: .*mars, .*fcfs, hrrn, lpm"),
        (None, None, "nope", r"--mars-admission 'nope': unknown .*; known: .*mars\b.*, .*window:N; also accepted: off"),
        (None, None, "window:0", r"--mars-admission 'window:0': .*N '0'; accepted: window:N, N a whole number from 1"),
        (None, None, "window", r"--mars-admission 'window': .*N ''; accepted: window:N"),
        ("mars", "lpm", None, r"--scheduler-policy mars and --schedule-policy lpm contradict"),
        ("fcfs", "lpm", None, r"--scheduler-policy fcfs and --schedule-policy lpm contradict"),
    ],
)
def test_what_is_refused(scheduler_policy, schedule_policy, admission, message):
    with pytest.raises(ConfigError, match=message):
        resolve(scheduler_policy, schedule_policy, admission, NATIVE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pp_size": 2}, r"--scheduler-policy mars does not support --pp-size=2: .*; accepted: 1"),
        ({"disaggregation_mode": "prefill"}, "--disaggregation-mode=prefill.*; accepted: null"),
        ({"disaggregation_mode": "decode"}, "--disaggregation-mode=decode.*; accepted: null"),
        ({"disable_radix_cache": True}, "--disable-radix-cache=True"),
        ({"enable_streaming_session": True}, "--enable-streaming-session=True: a session holds its KV"),
        ({"tokenizer_worker_num": 4}, "--mars-admission mars does not support --tokenizer-worker-num=4"),
    ],
)
def test_host_arguments_that_mars_cannot_serve_under_are_refused_with_the_reason(arguments, message):
    with pytest.raises(ConfigError, match=message):
        check_supported(MarsConfig("mars", "mars"), arguments)
    check_supported(MarsConfig("mars", "mars"), {"pp_size": 1, "disable_radix_cache": False})


def test_only_what_is_on_is_checked():
    check_supported(MarsConfig(None, "mars"), {"pp_size": 2})
    check_supported(MarsConfig(None, "off"), {"disaggregation_mode": "prefill", "dp_size": 2})
    check_supported(MarsConfig("mars", "off", recognise=False), {"tokenizer_worker_num": 4, "dp_size": 1})
    with pytest.raises(ConfigError, match=r"--mars-recognise off turns it off.*--tokenizer-worker-num=4"):
        check_supported(MarsConfig("mars", "off"), {"tokenizer_worker_num": 4})


@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_admission_alone_is_refused_on_a_server_that_has_half_of_each_turn(mode):
    message = f"--mars-admission mars does not support --disaggregation-mode={mode}: .* held .*; accepted: null"
    with pytest.raises(ConfigError, match=message):
        check_supported(MarsConfig(None, "mars"), {"disaggregation_mode": mode})


def test_several_ranks_need_one_tokenizer_process_that_knows_where_programs_are():
    for size in ("dp_size", "attn_dp_size"):
        with pytest.raises(ConfigError, match="on their data-parallel rank does not support --tokenizer-worker-num=4"):
            check_supported(MarsConfig("mars", "off", recognise=False), {"tokenizer_worker_num": 4, size: 2})


def test_the_rust_frontend_is_refused(monkeypatch):
    monkeypatch.setenv("SGLANG_RUST_SERVER", "1")
    with pytest.raises(ConfigError, match="SGLANG_RUST_SERVER is set"):
        check_supported(MarsConfig("mars", "off"), {})


def test_the_configuration_reaches_a_child_through_the_environment(monkeypatch):
    monkeypatch.delenv("MARS_SGLANG_CONFIG", raising=False)
    assert MarsConfig.from_env() is None
    MarsConfig("mars", "off").to_env()
    assert MarsConfig.from_env() == MarsConfig("mars", "off")
    MarsConfig.clear_env()
    assert MarsConfig.from_env() is None


@pytest.mark.parametrize(
    ("argv", "asked"),
    [
        ([], False),
        (["--config"], False),
        (["--model-path", "m", "--port", "1"], False),
        (["--schedule-policy", "lpm"], False),
        (["--scheduler-policy", "lpm"], True),
        (["--scheduler-pol=mars"], True),
        (["--mars-admission", "mars"], True),
        (["--help"], True),
    ],
)
def test_a_flag_of_ours_wakes_the_plugin_and_nothing_else_does(argv, asked):
    assert asked_on_command_line(argv) is asked


def test_a_flag_in_a_config_file_counts(tmp_path):
    config = tmp_path / "server.yaml"
    config.write_text("model-path: m\n")
    assert not asked_on_command_line(["--config", str(config)])
    config.write_text("model-path: m\nscheduler_policy: mars\n")
    assert asked_on_command_line(["--config", str(config)])
    assert asked_on_command_line([f"--config={config}"])
    assert not asked_on_command_line(["--config", str(tmp_path / "missing.yaml")])


def options(**given):
    return {f"mars_{name}": value for name, value in given.items()}


@pytest.fixture
def auto(tmp_path):
    return lambda: f"ipc://{tmp_path}/auto"


def test_the_stream_is_on_with_anything_of_ours_and_a_control_process_is_started_beside_the_server(auto):
    assert with_options(None, {}, auto) is None
    config = with_options(MarsConfig("mars", "mars"), {}, auto)
    assert config.stream == StreamConfig(auto(), spawn=True)
    assert config.recognise and not config.stream.sidecar


def test_a_flag_of_the_stream_alone_turns_it_on_over_native_policies(tmp_path, auto):
    config = with_options(None, options(record=str(tmp_path / "r")), auto)
    assert config.turn_policy is None and config.admission == "off"
    assert config.stream.record == str(tmp_path / "r")


def test_off_switches(auto):
    config = with_options(MarsConfig("mars", "off"), options(control="off", recognise="off"), auto)
    assert config.stream is None and not config.recognise


def test_a_control_process_that_runs_already_is_used_and_not_started(tmp_path, auto):
    address = f"ipc://{tmp_path}/there"
    config = with_options(MarsConfig("mars", "mars"), options(control=address, sidecar="on"), auto)
    assert config.stream == StreamConfig(address, sidecar=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"control": "tcp://127.0.0.1:7000"}, "--mars-control 'tcp://127.0.0.1:7000': .*CURVE keys.*mars-sglang keys"),
        ({"control": "nowhere"}, "--mars-control 'nowhere': .*accepted are ipc:///FOLDER.*also accepted: auto, off"),
        ({"control": "ipc:///tmp/x", "record": "f"}, "--mars-record is for the control process that this"),
        ({"keys": "/nonexistent"}, "--mars-keys '/nonexistent': no folder of keys.*mars-sglang keys"),
        ({"control": "ipc:///tmp/x", "keys": "/nonexistent"}, "--mars-keys '/nonexistent': no folder of keys"),
        ({"control": "off", "record": "f"}, "--mars-record needs the stream that --mars-control off turns off"),
        ({"sidecar": "yes"}, "--mars-sidecar is 'yes'; accepted: on, off"),
        ({"recognise": "yes"}, "--mars-recognise is 'yes'; accepted: on, off"),
        ({"identity": "/nonexistent.toml"}, "--mars-identity '/nonexistent.toml' is not a file"),
    ],
)
def test_refused_stream_flags_say_what_is_accepted(auto, given, message):
    with pytest.raises(ConfigError, match=message):
        with_options(MarsConfig("mars", "mars"), options(**given), auto)


@pytest.mark.parametrize("control", [{}, {"control": "auto"}], ids=["by default", "asked for"])
def test_an_own_place_for_the_stream_that_cannot_be_used_names_the_flag_and_what_else_is_accepted(
    monkeypatch, tmp_path, control
):
    accepted = "also accepted: ipc:///FOLDER, tcp://HOST:PORT, off"
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    with pytest.raises(ConfigError, match=rf"--mars-control 'auto': .*{long.name}.* is too long.*{accepted}"):
        with_options(MarsConfig("mars", "mars"), options(**control), lambda: Address.default("30000").text)
    opened = tmp_path / "opened"
    opened.mkdir()
    opened.chmod(0o755)
    with pytest.raises(ConfigError, match=rf"--mars-control 'auto': others may enter {opened}.*{accepted}"):
        with_options(MarsConfig("mars", "mars"), options(**control), lambda: f"ipc://{opened}")


# -- admission


def test_admission_flags_reach_the_configuration_and_its_children(tmp_path, auto, monkeypatch):
    tenants = tmp_path / "tenants.toml"
    tenants.write_text("[tenants]\nteam = { weight = 2.5 }\n")
    given = options(max_waiting="16", max_admission_wait="2.5", tenants=str(tenants))
    config = with_options(MarsConfig("mars", "footprint"), given, auto)
    assert (config.max_waiting, config.max_admission_wait_s) == (16, 2.5)
    assert config.tenant_weights == {"@team": 2.5}
    monkeypatch.delenv("MARS_SGLANG_CONFIG", raising=False)
    config.to_env()
    assert MarsConfig.from_env() == config
    MarsConfig.clear_env()


def test_without_them_a_turn_waits_for_as_long_as_its_client_does(auto):
    config = with_options(MarsConfig("mars", "mars"), {}, auto)
    assert config.admission == "mars"
    assert (config.max_waiting, config.max_admission_wait_s, config.tenant_weights) == (4096, None, {})


@pytest.mark.parametrize("objective", ["mean", "tail", "balanced"])
def test_an_objective_is_a_parameter_of_mars_turns_and_of_mars_admission(auto, objective):
    given = options(objective=objective)
    both = with_options(MarsConfig("mars", "mars"), given, auto)
    assert (both.turn_name, both.turn_policy, both.admission) == (f"mars:{objective}", "mars", f"mars:{objective}")
    one = with_options(MarsConfig("mars", "window:8"), given, auto)
    assert (one.turn_name, one.admission) == (f"mars:{objective}", "window:8")
    other = with_options(MarsConfig(None, "mars"), given, auto)
    assert (other.turn_name, other.admission) == (None, f"mars:{objective}")
    assert with_options(MarsConfig("mars", "mars"), {}, auto).turn_name == "mars"
    with pytest.raises(ConfigError, match=r"neither was asked for \(admission: window:8\)"):
        with_options(MarsConfig("autellix", "window:8"), given, auto)


@pytest.mark.parametrize(
    ("admission", "given", "message"),
    [
        ("mars", {"max_waiting": "0"}, "--mars-max-waiting is '0'; accepted: a whole number from 1 to 8192"),
        ("mars", {"max_waiting": "2.5"}, "--mars-max-waiting is '2.5'; accepted: a whole number"),
        ("mars", {"max_waiting": "many"}, "--mars-max-waiting is 'many'"),
        (
            "mars",
            {"max_admission_wait": "0"},
            "--mars-max-admission-wait is '0'; accepted: a number of seconds above 0",
        ),
        ("mars", {"max_admission_wait": "-1"}, "--mars-max-admission-wait is '-1'"),
        ("mars", {"max_admission_wait": "nan"}, "--mars-max-admission-wait is 'nan'"),
        ("mars", {"max_admission_wait": "inf"}, "--mars-max-admission-wait is 'inf'"),
        ("mars", {"objective": "fast"}, "--mars-objective is 'fast'; accepted: mean, tail, balanced"),
        ("mars:tail", {"objective": "mean"}, "--mars-objective mean and --mars-admission mars:tail contradict"),
        ("mars", {"tenants": "/nonexistent.toml"}, "--mars-tenants /nonexistent.toml: cannot be read"),
        ("mars", {"control": "off"}, "--mars-admission mars is decided in the control process.*--mars-admission off"),
        ("off", {"max_waiting": "8"}, "--mars-max-waiting needs an admission policy"),
        ("off", {"max_admission_wait": "8"}, "--mars-max-admission-wait needs an admission policy"),
        ("off", {"tenants": "f"}, "--mars-tenants needs an admission policy"),
    ],
)
def test_refused_admission_flags_say_what_is_accepted(auto, admission, given, message):
    with pytest.raises(ConfigError, match=message):
        with_options(MarsConfig("mars", admission), options(**given), auto)


def test_a_target_for_decoding_turns_is_of_the_turn_policy_and_its_chunks(auto):
    config = with_options(MarsConfig("mars", "off"), options(itl_target_ms="80"), auto)
    assert config.itl_target_s == 0.08
    assert with_options(MarsConfig("mars", "off"), {}, auto).itl_target_s is None
    check_supported(config, {"chunked_prefill_size": 2048})
    with pytest.raises(ConfigError, match="--chunked-prefill-size -1 turns them off; accepted: a size above 0"):
        check_supported(config, {"chunked_prefill_size": -1})
    with pytest.raises(ConfigError, match="'soon'; accepted: a number of milliseconds above 0"):
        with_options(MarsConfig("mars", "off"), options(itl_target_ms="soon"), auto)
    with pytest.raises(ConfigError, match="--mars-itl-target-ms needs a turn policy of ours; give --scheduler-policy"):
        with_options(MarsConfig(None, "mars"), options(itl_target_ms="80"), auto)


def test_a_server_and_its_engine_have_one_name_and_the_next_server_another(monkeypatch):
    monkeypatch.delenv("MARS_SGLANG_CONFIG", raising=False)
    monkeypatch.delenv("MARS_SGLANG_INSTANCE", raising=False)
    assert instance() == ""
    names = set()
    for _ in range(2):
        MarsConfig("mars", "mars").to_env()
        assert instance() and instance() == instance()
        names.add(instance())
    assert len(names) == 2
    MarsConfig.clear_env()
