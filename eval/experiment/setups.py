"""Setups of an experiment: bare labels, or tables whose lists are multiplied out."""

from __future__ import annotations

import itertools
from dataclasses import fields
from typing import Any

from eval.ablations import ADMISSION_ABLATIONS, TURN_ABLATIONS
from eval.experiment.checks import Check, Table, number, one_of, text, truth
from eval.setup import EVICTIONS, NATIVE_TURNS, Setup
from mars_sglang.config import ADMISSION_OFF
from mars_sglang.core.policy import admission_policy, admission_policy_names, turn_policy, turn_policy_names

CLAIRVOYANT = "clairvoyant"
"""Turn policy of the yardstick that knows the future; it brings its own admission, and runs in the simulator alone."""

SIMULATED_ONLY = (CLAIRVOYANT, *TURN_ABLATIONS, *ADMISSION_ABLATIONS)
"""Policies that no server offers."""


def setups_of(top: Table) -> list[Setup]:
    """The setups that ``top`` lists under ``setups``. Raises ExperimentError."""
    found: list[Setup] = []
    for index, value in enumerate(top.many("setups", lambda value: value)):
        where = f"{top.where}: setups[{index}]"
        if isinstance(value, str):
            turn, plus, admission = value.partition("+")
            value = {"turn": turn, "admission": admission} if plus else {"turn": turn}
        if not isinstance(value, dict):
            top.refuse("setups", value, "turn, turn+admission, or a table with the fields of a setup")
        table = Table(where, value, [field.name for field in fields(Setup)])
        given = {name: table.many(name, _CHECKS.get(name, lambda value: value)) for name in value}
        for values in itertools.product(*given.values()):
            setup = Setup(**dict(zip(given, values, strict=True)))
            if setup in found:
                top.refuse("setups", setup.label, "every setup once")
            if setup.turn == CLAIRVOYANT and setup.admission != ADMISSION_OFF:
                top.refuse("setups", setup.label, f"{CLAIRVOYANT} without an admission policy: it brings its own")
            found.append(setup)
    return found


def _turn(value: Any) -> str:
    others = [*NATIVE_TURNS, CLAIRVOYANT, *TURN_ABLATIONS]
    return value if value in others else _registered(value, turn_policy, [*others, *turn_policy_names()])


def _admission(value: Any) -> str:
    others = [ADMISSION_OFF, *ADMISSION_ABLATIONS]
    return value if value in others else _registered(value, admission_policy, [*others, *admission_policy_names()])


def _registered(value: Any, make, accepted: list[str]) -> str:
    # Made and not looked up, because a name may carry an argument.
    try:
        make(text(value))
    except ValueError:
        raise ValueError(", ".join(accepted)) from None
    return value


_CHECKS: dict[str, Check] = {
    "turn": _turn,
    "admission": _admission,
    "eviction": one_of(EVICTIONS),
    "session_cache": truth,
    "host_ratio": number(0),
}
