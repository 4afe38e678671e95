"""``--scheduler-policy`` and ``--mars-admission`` in SGLang's own argument parsers."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sglang.srt.plugins.hook_registry import HookRegistry, HookType

from mars_sglang.config import (
    ADMISSION_OFF,
    DEFAULT_MAX_WAITING,
    NATIVE_UNDER_MARS,
    NATIVE_UNDER_PRIORITIES,
    OBJECTIVES,
    OPTIONS,
    RADIX_CACHE_BACKEND,
    ConfigError,
    MarsConfig,
    check_supported,
    resolve,
    with_options,
)
from mars_sglang.core.policy import admission_policy_names, turn_policy_names
from mars_sglang.engine.identity_sources import SourcesError, load_sources
from mars_sglang.engine.seams import scheduler_registry
from mars_sglang.stream.address import Address

_OURS = ("scheduler_policy", "mars_admission", *OPTIONS)


def register() -> None:
    """Hook SGLang's argument parser; called only when a flag of ours was seen."""
    HookRegistry.register("sglang.srt.server_args.ServerArgs.add_cli_args", _add_cli_args, HookType.AROUND)
    HookRegistry.register("sglang.srt.server_args.ServerArgs.from_cli_args", _from_cli_args, HookType.AROUND)


def _add_cli_args(original: Callable, parser: argparse.ArgumentParser) -> None:
    original(parser)
    native = _native_action(parser)
    # None tells "not given" from "given as the default"; _from_cli_args puts the default back.
    parser.set_defaults(schedule_policy=None, _native_schedule_policy=(native.default, tuple(native.choices)))
    group = parser.add_argument_group("mars-sglang")
    group.add_argument(
        "--scheduler-policy",
        metavar="NAME",
        help=f"Order of turns, retention and victims: {', '.join(turn_policy_names())}, "
        "or one of the names of --schedule-policy.",
    )
    group.add_argument(
        "--mars-admission",
        metavar="NAME",
        help=f"Which agent programs may start: {', '.join([ADMISSION_OFF, *admission_policy_names()])}. "
        "Works over any scheduler policy. Default: mars with --scheduler-policy mars, else off.",
    )
    group.add_argument(
        "--mars-control",
        metavar="ADDRESS",
        help="The control process: auto (default) starts one beside this server; ipc:///FOLDER or tcp://HOST:PORT "
        "names one that runs; off: no information stream.",
    )
    group.add_argument("--mars-record", metavar="FILE", help="Record the stream, for mars-sglang replay and timeline.")
    group.add_argument("--mars-keys", metavar="FOLDER", help="CURVE keys for TCP, from mars-sglang keys.")
    group.add_argument(
        "--mars-sidecar", metavar="on|off", help="Also start a sidecar for tools on this host. Default: off."
    )
    group.add_argument(
        "--mars-recognise",
        metavar="on|off",
        help="Recognise the program of a request without an id by what it continues. Default: on.",
    )
    group.add_argument("--mars-identity", metavar="FILE", help="TOML file with more places where ids stand.")
    group.add_argument(
        "--mars-objective",
        metavar="NAME",
        help=f"What mars turns and mars admission make short: {', '.join(OBJECTIVES)} (default: balanced).",
    )
    group.add_argument(
        "--mars-max-admission-wait",
        metavar="SECONDS",
        help="A turn that waited so long for admission is answered 503 with Retry-After. Default: no limit.",
    )
    group.add_argument(
        "--mars-max-waiting",
        metavar="N",
        help=f"Turns that may wait for admission at a time; one more is answered 429. Default: {DEFAULT_MAX_WAITING}.",
    )
    group.add_argument(
        "--mars-itl-target-ms",
        metavar="MS",
        help="Time between two tokens of a running turn, which prefills are cut and interrupted for. Default: none; "
        "--enable-mixed-chunk bounds it by the chunk.",
    )
    group.add_argument("--mars-tenants", metavar="FILE", help="TOML file with the weights of tenants.")


def _native_action(parser: argparse.ArgumentParser) -> argparse.Action:
    for action in parser._actions:
        if "--schedule-policy" in action.option_strings:
            return action
    raise SystemExit("mars-sglang: SGLang has no --schedule-policy option; run `mars-sglang doctor`")


def _from_cli_args(original: Callable, cls: type, args: argparse.Namespace) -> Any:
    default, choices = args._native_schedule_policy
    try:
        native, config = resolve(args.scheduler_policy, args.schedule_policy, args.mars_admission, choices)
        args.schedule_policy = native or default
        options = {name: getattr(args, name) for name in OPTIONS}
        config = with_options(config, options, lambda: Address.default(str(args.port)).text)
        if config is not None:
            for name, value in _host_arguments(config, vars(args)).items():
                setattr(args, name, value)
    except ConfigError as error:
        # As argparse reports its own errors: short, on stderr, exit status 2.
        print(f"mars-sglang: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    _activate(config)
    return original(cls, args)


def engine_server_args(native: Callable, kwargs: dict[str, Any]) -> Any:
    """``ServerArgs`` for ``Engine(..., scheduler_policy=..., mars_admission=...)``.

    Raises:
        ConfigError: as :func:`mars_sglang.config.resolve`.
    """
    parser = argparse.ArgumentParser()
    from sglang.srt.server_args import ServerArgs

    ServerArgs.add_cli_args(parser)
    choices = tuple(_native_action(parser).choices)
    ours = {name: kwargs.pop(name, None) for name in _OURS}
    schedule_policy, config = resolve(
        ours["scheduler_policy"], kwargs.get("schedule_policy"), ours["mars_admission"], choices
    )
    if schedule_policy is not None:
        kwargs["schedule_policy"] = schedule_policy
    options = {name: ours[name] for name in OPTIONS}
    config = with_options(config, options, lambda: Address.default(f"engine-{os.getpid()}").text)
    if config is not None:
        kwargs.update(_host_arguments(config, kwargs))
    _activate(config)
    return native(**kwargs)


def _host_arguments(config: MarsConfig, arguments: dict[str, Any]) -> dict[str, Any]:
    """SGLang arguments that select our parts of the engine."""
    check_supported(config, arguments)
    if config.identity is not None:
        try:
            load_sources(Path(config.identity))
        except SourcesError as error:
            raise ConfigError(f"--mars-identity {error}") from error
    if config.turn_policy is None:
        return {}
    native = NATIVE_UNDER_PRIORITIES if arguments.get("enable_priority_scheduling") else NATIVE_UNDER_MARS
    return {
        "schedule_policy": config.turn_policy if scheduler_registry() else native,
        "radix_cache_backend": RADIX_CACHE_BACKEND,
    }


def _activate(config: MarsConfig | None) -> None:
    if config is None:
        MarsConfig.clear_env()
        return
    config.to_env()
    # Not above: it imports the engine, which the arguments may yet turn out not to want.
    from mars_sglang.engine.install import install_or_exit

    install_or_exit(config, launches=True)
