"""What was asked for on the command line, and how it reaches the server's processes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from mars_sglang.core.policy import admission_policy_names, turn_policy_names
from mars_sglang.plugin import CONFIG_ENV

ADMISSION_OFF = "off"

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
class MarsConfig:
    """The part of MARS that is on in this server."""

    turn_policy: str | None
    """A policy of ours inside the engine; None leaves SGLang's scheduler alone."""
    admission: str
    """An admission policy, or ``off``."""

    def to_env(self) -> None:
        """Hand this configuration to processes started from now on."""
        os.environ[CONFIG_ENV] = msgspec.json.encode(self).decode()

    @staticmethod
    def from_env() -> "MarsConfig | None":
        """The configuration that the parent process set; None if it set none."""
        text = os.environ.get(CONFIG_ENV)
        return msgspec.json.decode(text, type=MarsConfig) if text else None

    @staticmethod
    def clear_env() -> None:
        os.environ.pop(CONFIG_ENV, None)


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
    if mars_admission is not None and mars_admission not in (known := [ADMISSION_OFF, *admission_policy_names()]):
        raise ConfigError(f"--mars-admission {mars_admission!r} is unknown; known: {', '.join(known)}")
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
    default = turn if turn in admission_policy_names() else ADMISSION_OFF
    admission = mars_admission or default
    if turn is None and admission == ADMISSION_OFF:
        return native, None
    return native, MarsConfig(turn_policy=turn, admission=admission)


#: What the turn policy does not work with yet: argument, value that is fine, and the reason.
_TURN_POLICY_NEEDS = (
    ("pp_size", (1,), "pipeline stages do not see the order that the first stage decided"),
    ("disaggregation_mode", ("null", None), "prefill and decode servers each see half of a program"),
    ("disable_radix_cache", (False, None), "it ranks turns by what the radix cache holds"),
    ("radix_cache_backend", (None, RADIX_CACHE_BACKEND), "it decides which cached contexts go first, in its own cache"),
    ("enable_lmcache", (False, None), "LMCache brings its own tree cache"),
    ("enable_flexkv", (False, None), "FlexKV brings its own tree cache"),
    ("enable_pdmux", (False, None), "PD multiplexing has its own prefill path"),
    ("dllm_algorithm", (None,), "diffusion models have their own prefill path"),
)
_ADMISSION_NEEDS = (("tokenizer_worker_num", (1, None), "the gate needs all requests in one tokenizer process"),)


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
    for flag, (name, accepted, reason) in needs:
        value = arguments.get(name, accepted[0])
        if value not in accepted:
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"{flag} does not support {option}={value}: {reason}; accepted: {accepted[0]}")
    if os.environ.get("SGLANG_RUST_SERVER", "").lower() in ("1", "true", "yes", "y", "on"):
        raise ConfigError("SGLANG_RUST_SERVER is set, and its frontend has no plugin seams; unset it to use MARS")
