"""The control process's work without its sockets: order, state and predictions, per event of the stream."""

from __future__ import annotations

from collections.abc import Sequence

from eval.cost.curve import SMALLEST, Curve
from eval.cost.timing import Contender, Effort, measure
from mars_sglang.control.pauses import FIRST_LOOK_S, LOOK_FACTOR, LOOKS_PER_TICK, PauseConsumer
from mars_sglang.control.sequencer import Sequencer
from mars_sglang.core.pauses import PauseKey
from mars_sglang.core.prediction import PausePredictor
from mars_sglang.stream.codec import decode, encode
from mars_sglang.stream.events import Event, ExecutorLoad, FirstToken, KvRetained, ToolUse, TurnEnded, TurnSubmitted

SIZES = (1, 1_000, 10_000, 100_000)
#: Of open pauses that are looked at. They are made anew for each look at all of them.
LOOK_SIZES = (1, 1_000, 10_000)

_BEGAN_S = 1_000.0
#: At a pause's start, by what its series is called behind ``look``.
_LOADS = {
    "": None,
    ", host loaded": ExecutorLoad(
        source="sidecar:cost:4:0",
        source_seq=1,
        executor="host",
        cores=4.0,
        run_queue=16.0,
        slots=4,
        active=4,
        queued=7,
        service_s=20.0,
    ),
}
#: Programs at work for each kind of event.
_ACTIVE = 32


def event_curve(sizes: Sequence[int], effort: Effort) -> Curve:
    """Each event of a turn, from its bytes to the messages to be published, against the programs inside a tool."""
    curve = Curve("events", "One event in the control process", "programs known", base=SMALLEST)
    contenders: dict[tuple[str, int], Contender] = {}
    for size in sorted(sizes):
        order = _sequencer(size)
        for kind in turn_events("any", 0):
            contenders[kind, size] = _event(order, kind)
        contenders["heartbeat, nothing due", size] = Contender(lambda order=order: order.tick(_BEGAN_S + 1.0))
    for (series, size), values in measure(contenders, effort).items():
        curve.put(series, size, values)
    curve.remarks.append(
        "Decoding, order and state, and at a turn's end the prediction of its pause; without the sockets. Every "
        f"known program is inside a tool, with a pause open. {_ACTIVE} more are at work for each kind of event, "
        "and the events are of their turns."
    )
    return curve


def look_curve(sizes: Sequence[int], effort: Effort) -> Curve:
    """One look at an open pause, which the control process takes at growing ages of it."""
    curve = Curve("looks", "One look at an open pause", "pauses due at once")
    looks = {(f"look{end}", size): _look(size, load) for size in sorted(sizes) for end, load in _LOADS.items()}
    for (series, size), values in measure(looks, effort).items():
        curve.put(series, size, values)
    curve.remarks.append(
        f"A pause is looked at when it has lasted {FIRST_LOOK_S:g} s and whenever it has lasted {LOOK_FACTOR:g} times "
        f"as long, until its program is back or dormant. Of the looks that are due at a heartbeat, {LOOKS_PER_TICK} at "
        "most are taken, in one go, and nothing else is done meanwhile; the rest wait for the next heartbeat. *Host "
        "loaded*: of pauses that began while calls waited for a slot, which makes the forecast a mixture."
    )
    return curve


def turn_events(program: str, number: int) -> dict[str, Event]:
    """The events of one turn of a program, by kind, in their order."""
    ids = {"program": program, "turn": f"{program}-turn-{number}", "time_s": _BEGAN_S, "source_seq": 1}
    server, engine = ids | {"source": "server:cost:2:0"}, ids | {"source": "engine:cost:3:0"}
    return {
        "turn submitted": TurnSubmitted(
            **server, prompt_tokens=12_000, projected_tokens=12_256, number=number, recognised_by="header x-session-id"
        ),
        "first token": FirstToken(**engine, prompt_tokens=12_000, cached_tokens=11_000, queued_s=0.1, prefill_s=0.2),
        "turn ended": TurnEnded(
            **server,
            prompt_tokens=12_000,
            output_tokens=200,
            cached_tokens=11_000,
            finish_reason="stop",
            tools=(ToolUse("shell", "pytest"),),
        ),
        "KV retained": KvRetained(**engine, pages=12_200, page_tokens=1),
    }


def _sequencer(programs: int, load: ExecutorLoad | None = None) -> Sequencer:
    """A control process's order and consumers that know so many programs, each inside a tool since the same moment, on
    the only host, if there is one."""
    predictor = PausePredictor()
    for seconds in range(1, 301):
        # Or no pause would ever have ended, and every silence were dormant.
        predictor.observe(PauseKey("shell", "pytest", "before"), float(seconds))
    order = Sequencer(1, "control:cost:1:0", [PauseConsumer(predictor)])
    if load is not None:
        order.order(load, b"", _BEGAN_S)
    for i in range(programs):
        for event in turn_events(f"program-{i}", 0).values():
            order.order(event, b"", _BEGAN_S)
    return order


def _event(order: Sequencer, kind: str) -> Contender:
    """That event of one turn after another; the turn's other events are not timed."""
    turns = [{k: encode(e) for k, e in turn_events(f"active-{kind}-{i}", 1).items()} for i in range(_ACTIVE)]
    kinds = list(turns[0])
    before, behind = kinds[: kinds.index(kind)], kinds[kinds.index(kind) + 1 :]
    turn = 0

    def take(which: str) -> None:
        payload = turns[turn][which]
        order.order(decode(payload), payload, _BEGAN_S + 0.5)

    def go_on() -> None:
        nonlocal turn
        for which in behind:
            take(which)
        turn = (turn + 1) % _ACTIVE
        for which in before:
            take(which)

    for which in before:
        take(which)
    return Contender(lambda: take(kind), go_on)


def _look(pauses: int, load: ExecutorLoad | None) -> Contender:
    order = _sequencer(pauses, load)

    def look() -> None:
        if len(order.tick(_BEGAN_S + FIRST_LOOK_S)) > 1:
            raise RuntimeError("a pause went dormant at its first look; this is measured with pauses that go on")

    def anew() -> None:
        nonlocal order
        order = _sequencer(pauses, load)

    return Contender(look, anew, items=min(pauses, LOOKS_PER_TICK), calls=1)
