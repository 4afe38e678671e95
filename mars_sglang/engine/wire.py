"""What a request carries from the server process to the scheduler processes.

It rides in ``sampling_params.custom_params``, SGLang's field for plugins: it passes every
endpoint, batch, rank and data-parallel router untouched, and no host message changes.
SGLang allows scalars, lists of scalars and flat dictionaries of scalars there.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

#: Keys in ``custom_params``. A client's own values under them are overwritten.
TURN_KEY = "mars"
PAUSED_KEY = "mars_paused"


class WireTurn(NamedTuple):
    """A turn as the server process announced it. Times are seconds of our clock."""

    program: str | None
    arrived_s: float
    program_arrived_s: float
    paused: tuple[str, ...] = ()
    last: bool = False
    """The client called it the last turn of its program."""
    info: bool = False
    """The client asked what became of it."""


def put(sampling_params: Mapping[str, Any] | None, turn: WireTurn) -> dict[str, Any]:
    """The sampling parameters with the turn in them; the argument is left as it is."""
    params = dict(sampling_params or {})
    custom = dict(params.get("custom_params") or {})
    fields: dict[str, Any] = {"arrived": turn.arrived_s}
    if turn.program is not None:
        fields |= {"program": turn.program, "program_arrived": turn.program_arrived_s}
        if turn.last:
            fields["last"] = True
    if turn.info:
        fields["info"] = True
    custom[TURN_KEY] = fields
    custom.pop(PAUSED_KEY, None)
    if turn.paused:
        custom[PAUSED_KEY] = list(turn.paused)
    params["custom_params"] = custom
    return params


def put_all(sampling_params: Any, turn: WireTurn) -> Any:
    """:func:`put` for one request or for each of a batch, as SGLang spells either."""
    if isinstance(sampling_params, Sequence) and not isinstance(sampling_params, str):
        return [put(params, turn) for params in sampling_params]
    return put(sampling_params, turn)


def take(custom_params: Mapping[str, Any] | None, now_s: float) -> WireTurn:
    """The turn of a request; one without a program for what did not come through our server process.

    Args:
        now_s: arrival of a request that carries none, such as a health check.
    """
    fields = (custom_params or {}).get(TURN_KEY)
    if not isinstance(fields, Mapping):
        return WireTurn(None, now_s, now_s)
    arrived_s = fields.get("arrived", now_s)
    return WireTurn(
        program=fields.get("program"),
        arrived_s=arrived_s,
        program_arrived_s=fields.get("program_arrived", arrived_s),
        paused=tuple((custom_params or {}).get(PAUSED_KEY) or ()),
        last=fields.get("last") is True,
        info=fields.get("info") is True,
    )
