"""What was asked for on the command line, and how it reaches the server's processes."""

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from mars_sglang.core.policy import admission_policy, is_admission_policy, turn_policy_names
from mars_sglang.plugin import CONFIG_ENV
from mars_sglang.stream.address import Address, AddressError
from mars_sglang.stream.keys import Keys, KeysError
from mars_sglang.tenants import TenantsError, load_tenants

ADMISSION_OFF = "off"

#: Objectives of the policies that have them: ``mars`` turns and ``mars`` admission.
OBJECTIVES = ("mean", "tail", "balanced")

#: A waiting turn costs a few kilobytes and an open connection.
DEFAULT_MAX_WAITING, MAX_MAX_WAITING = 4096, 8192

_INSTANCE_ENV = "MARS_SGLANG_INSTANCE"

#: Name of our cache for SGLang's ``--radix-cache-backend``.
RADIX_CACHE_BACKEND = "mars"


#: What ``get_schedule().schedule_policy`` says under a policy of ours. SGLang's chunk
#: sharing (one unfinished chunk, its size cut so that short turns share the step) belongs
#: to this native policy's name; the order itself is ours.
NATIVE_UNDER_MARS = "shortest-prefill-first"
#: SGLang accepts outer priorities only with this policy's name.
NATIVE_UNDER_PRIORITIES = "fcfs"


class ConfigError(ValueError):
    """A combination of arguments that cannot be served; the message says what to change."""


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """Where this server's part of the information stream goes."""

    address: str
    spawn: bool = False
    """Whether this server starts the control process there, and again when it died."""
    record: str | None = None
    """A file that the spawned control process records to."""
    keys: str | None = None
    """Folder of CURVE keys, for TCP."""
    sidecar: bool = False
    """Whether this server also starts a sidecar, for tools that run on its own host."""


@dataclass(frozen=True, slots=True)
class MarsConfig:
    """The part of MARS that is on in this server."""

    turn_policy: str | None
    """A policy of ours inside the engine; None leaves SGLang's scheduler alone."""
    admission: str
    """An admission policy, or ``off``."""
    stream: StreamConfig | None = None
    recognise: bool = True
    """Whether a request without an id is recognised by what it continues."""
    identity: str | None = None
    """A TOML file with more places where ids stand."""
    max_waiting: int = DEFAULT_MAX_WAITING
    """Turns that may wait for admission at a time; one more is refused."""
    max_admission_wait_s: float | None = None
    """Real seconds that a turn may wait for admission; None: as long as its client does."""
    objective: str | None = None
    """What the turn policy makes short, of :data:`OBJECTIVES`; None: its default."""
    itl_target_s: float | None = None
    """Seconds between two tokens of a running turn that prefills leave to it; None: as many as they take."""
    tenant_weights: dict[str, float] = field(default_factory=dict)
    """Shares of tenants in what admission gives out; 1 for one that is not named."""

    @property
    def turn_name(self) -> str | None:
        """The turn policy with its objective, as the registry knows it."""
        return f"{self.turn_policy}:{self.objective}" if self.objective else self.turn_policy

    def to_env(self) -> None:
        """Hand this configuration to processes started from now on."""
        os.environ[CONFIG_ENV] = msgspec.json.encode(self).decode()
        os.environ[_INSTANCE_ENV] = secrets.token_hex(4)

    @staticmethod
    def from_env() -> "MarsConfig | None":
        """The configuration that the parent process set; None if it set none."""
        text = os.environ.get(CONFIG_ENV)
        return msgspec.json.decode(text, type=MarsConfig) if text else None

    @staticmethod
    def clear_env() -> None:
        os.environ.pop(CONFIG_ENV, None)


def instance() -> str:
    """Names this server and its engine's processes alike, and no other server's; empty outside of one."""
    return os.environ.get(_INSTANCE_ENV, "")


def resolve(
    scheduler_policy: str | None,
    schedule_policy: str | None,
    mars_admission: str | None,
    native_policies: Sequence[str],
) -> tuple[str | None, MarsConfig | None]:
    """Turn the three arguments into a native policy and a configuration of ours.

    Args:
        scheduler_policy: value of ``--scheduler-policy``, None when it was not given.
        schedule_policy: value of SGLang's ``--schedule-policy``, None when not given.
        mars_admission: value of ``--mars-admission``, None when not given.
        native_policies: what ``--schedule-policy`` accepts.

    Returns:
        The value for ``--schedule-policy`` (None: SGLang's default) and the configuration
        (None: nothing of ours is active).

    Raises:
        ConfigError: unknown names, or two flags that contradict each other.
    """
    ours = turn_policy_names()
    if mars_admission not in (None, ADMISSION_OFF):
        try:
            admission_policy(mars_admission)
        except ValueError as error:
            raise ConfigError(
                f"--mars-admission {mars_admission!r}: {error}; also accepted: {ADMISSION_OFF}"
            ) from error
    if scheduler_policy is not None and scheduler_policy not in (known := [*ours, *sorted(native_policies)]):
        raise ConfigError(f"--scheduler-policy {scheduler_policy!r} is unknown; known: {', '.join(known)}")
    if None not in (scheduler_policy, schedule_policy) and scheduler_policy != schedule_policy:
        raise ConfigError(
            f"--scheduler-policy {scheduler_policy} and --schedule-policy {schedule_policy} contradict each other; "
            "give one of them"
        )
    turn = scheduler_policy if scheduler_policy in ours else None
    native = schedule_policy if turn or scheduler_policy is None else scheduler_policy
    # A policy of ours brings the admission policy of its own name; that is what "mars" means.
    default = turn if is_admission_policy(turn) else ADMISSION_OFF
    admission = mars_admission or default
    if turn is None and admission == ADMISSION_OFF:
        return native, None
    return native, MarsConfig(turn_policy=turn, admission=admission)


#: Flags of the stream and of identity, as argparse names them.
OPTIONS = (
    "mars_control",
    "mars_record",
    "mars_keys",
    "mars_sidecar",
    "mars_recognise",
    "mars_identity",
    "mars_objective",
    "mars_max_waiting",
    "mars_max_admission_wait",
    "mars_tenants",
    "mars_itl_target_ms",
)

#: Of those, what only an admission policy uses.
_OF_ADMISSION = ("mars_max_waiting", "mars_max_admission_wait", "mars_tenants")

CONTROL_AUTO = "auto"


def with_options(
    config: MarsConfig | None, options: Mapping[str, str | None], auto_address: Callable[[], str]
) -> MarsConfig | None:
    """Add what the flags in :data:`OPTIONS` say; one of them alone turns the stream on over native policies.

    Args:
        options: values by name; missing or None where a flag was not given.
        auto_address: where the control process beside this server is to listen.

    Raises:
        ConfigError: a value that is not accepted, or flags that contradict each other.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if config is None and not given:
        return None
    config = config or MarsConfig(turn_policy=None, admission=ADMISSION_OFF)
    if config.admission == ADMISSION_OFF and (idle := [name for name in _OF_ADMISSION if name in given]):
        raise ConfigError(f"--{idle[0].replace('_', '-')} needs an admission policy; give --mars-admission too")
    objective = given.get("mars_objective")
    _check_objective(config, objective)
    if config.turn_policy is None and "mars_itl_target_ms" in given:
        raise ConfigError("--mars-itl-target-ms needs a turn policy of ours; give --scheduler-policy mars too")
    itl_target_ms = _number(given, "mars_itl_target_ms", None, unit="milliseconds")
    identity = given.get("mars_identity")
    if identity is not None and not os.path.isfile(identity):
        raise ConfigError(f"--mars-identity {identity!r} is not a file; accepted: a TOML file as docs/identity.md says")
    stream = _stream(given, auto_address)
    if stream is None and config.admission != ADMISSION_OFF:
        raise ConfigError(
            f"--mars-admission {config.admission} is decided in the control process that --mars-control off turns off; "
            "also accepted: --mars-admission off"
        )
    return replace(
        config,
        admission=f"mars:{objective}" if objective and config.admission == "mars" else config.admission,
        objective=objective if config.turn_policy == "mars" else None,
        max_waiting=int(_number(given, "mars_max_waiting", DEFAULT_MAX_WAITING, whole=True)),
        max_admission_wait_s=_number(given, "mars_max_admission_wait", None),
        itl_target_s=None if itl_target_ms is None else itl_target_ms / 1000,
        tenant_weights=_weights(given.get("mars_tenants")),
        stream=stream,
        recognise=_on_off(given, "mars_recognise", default=True),
        identity=os.path.abspath(identity) if identity else None,
    )


def _stream(given: Mapping[str, str], auto_address: Callable[[], str]) -> StreamConfig | None:
    control = given.get("mars_control", CONTROL_AUTO)
    sidecar = _on_off(given, "mars_sidecar", default=False)
    record, keys = given.get("mars_record"), given.get("mars_keys")
    if control == ADMISSION_OFF:
        for name in ("mars_record", "mars_keys", "mars_sidecar"):
            if name in given and given[name] != ADMISSION_OFF:
                raise ConfigError(f"--{name.replace('_', '-')} needs the stream that --mars-control off turns off")
        return None
    spawn = control == CONTROL_AUTO
    if record is not None and not spawn:
        raise ConfigError(
            f"--mars-record is for the control process that this server starts; the one at {control} records when "
            "it is started with --record"
        )
    try:
        loaded = Keys.load(keys) if keys else None
    except (KeysError, OSError) as error:
        raise ConfigError(f"--mars-keys {keys!r}: {error}") from error
    try:
        address = auto_address() if spawn else control
        Address.parse(address).prepare(loaded)
    except (AddressError, OSError) as error:
        also = "ipc:///FOLDER, tcp://HOST:PORT, off" if spawn else "auto, off"
        raise ConfigError(f"--mars-control {control!r}: {error}; also accepted: {also}") from error
    recorded = os.path.abspath(record) if record else None
    return StreamConfig(address, spawn=spawn, record=recorded, keys=keys, sidecar=sidecar)


def _check_objective(config: MarsConfig, objective: str | None) -> None:
    if objective is None:
        return
    if objective not in OBJECTIVES:
        raise ConfigError(f"--mars-objective is {objective!r}; accepted: {', '.join(OBJECTIVES)}")
    name, _, own = config.admission.partition(":")
    if name == "mars" and own not in ("", objective):
        raise ConfigError(f"--mars-objective {objective} and --mars-admission {config.admission} contradict each other")
    if "mars" not in (config.turn_policy, name):
        raise ConfigError(
            "--mars-objective is for --scheduler-policy mars and --mars-admission mars, and neither was asked for "
            f"(admission: {config.admission})"
        )


def _number(
    given: Mapping[str, str], name: str, default: float | None, *, whole: bool = False, unit: str = "seconds"
) -> float | None:
    text = given.get(name)
    if text is None:
        return default
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = 0
    # A NaN is not larger either.
    if not 0 < value < (MAX_MAX_WAITING + 1 if whole else float("inf")):
        accepted = f"a whole number from 1 to {MAX_MAX_WAITING}" if whole else f"a number of {unit} above 0"
        raise ConfigError(f"--{name.replace('_', '-')} is {text!r}; accepted: {accepted}")
    return value


def _weights(path: str | None) -> dict[str, float]:
    if path is None:
        return {}
    try:
        return dict(load_tenants(Path(path)).weights)
    except TenantsError as error:
        raise ConfigError(f"--mars-tenants {error}") from error


def _on_off(given: Mapping[str, str], name: str, *, default: bool) -> bool:
    value = given.get(name)
    if value not in (None, "on", "off"):
        raise ConfigError(f"--{name.replace('_', '-')} is {value!r}; accepted: on, off")
    return default if value is None else value == "on"


#: What the turn policy does not work with yet: argument, value that is fine, and the reason.
_TURN_POLICY_NEEDS = (
    ("pp_size", (1,), "each pipeline stage orders turns for itself, and that they all agree was never shown"),
    ("disaggregation_mode", ("null", None), "prefill and decode servers each see half of a program"),
    ("disable_radix_cache", (False, None), "it ranks turns by what the radix cache holds"),
    ("radix_cache_backend", (None, RADIX_CACHE_BACKEND), "it decides which cached contexts go first, in its own cache"),
    ("enable_lmcache", (False, None), "LMCache brings its own tree cache"),
    ("enable_flexkv", (False, None), "FlexKV brings its own tree cache"),
    ("enable_pdmux", (False, None), "PD multiplexing has its own prefill path"),
    ("dllm_algorithm", (None,), "diffusion models have their own prefill path"),
    ("enable_streaming_session", (False, None), "a session holds its KV, which no policy may take"),
)
_ONE_TOKENIZER = ("tokenizer_worker_num", (1, None), "all requests have to come through one tokenizer process")
_ADMISSION_NEEDS = (
    _ONE_TOKENIZER,
    ("disaggregation_mode", ("null", None), "a turn held at one of the two servers is awaited by the other"),
)


def _data_parallel_ranks(arguments: Mapping[str, object]) -> int:
    """Copies of the model times attention's data-parallel groups: each has a KV cache of its own."""
    return (arguments.get("dp_size") or 1) * (arguments.get("attn_dp_size") or 1)


def check_supported(config: MarsConfig, arguments: Mapping[str, object]) -> None:
    """Refuse server arguments under which MARS would not do what it was asked to.

    Raises:
        ConfigError: names the argument, its value, what is accepted and why.
    """
    needs = []
    if config.turn_policy:
        needs += [("--scheduler-policy " + config.turn_policy, need) for need in _TURN_POLICY_NEEDS]
    if config.admission != ADMISSION_OFF:
        needs += [("--mars-admission " + config.admission, need) for need in _ADMISSION_NEEDS]
    if config.stream is not None:
        needs.append(("the information stream (--mars-control off turns it off)", _ONE_TOKENIZER))
    if config.recognise:
        needs.append(("recognition by continuation (--mars-recognise off turns it off)", _ONE_TOKENIZER))
    if (config.turn_policy or config.admission != ADMISSION_OFF) and _data_parallel_ranks(arguments) > 1:
        needs.append(("keeping programs on their data-parallel rank", _ONE_TOKENIZER))
    if config.itl_target_s is not None and (arguments.get("chunked_prefill_size") or 0) < 0:
        raise ConfigError(
            "--mars-itl-target-ms keeps its target by the size of chunks, and --chunked-prefill-size "
            f"{arguments['chunked_prefill_size']} turns them off; accepted: a size above 0, or none"
        )
    for flag, (name, accepted, reason) in needs:
        value = arguments.get(name, accepted[0])
        if value not in accepted:
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag} does not support {option}={value}: {reason}; accepted: {accepted[0]}")
    if os.environ.get("SGLANG_RUST_SERVER", "").lower() in ("1", "true", "yes", "y", "on"):
        raise ConfigError("SGLANG_RUST_SERVER is set, and its frontend has no plugin seams; unset it to use MARS")
