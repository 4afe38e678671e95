"""``GET /mars/state`` and ``DELETE /mars/programs/ID`` on SGLang's own HTTP server."""

import sys
from dataclasses import asdict
from itertools import islice
from typing import Annotated, Any

import msgspec

from mars_sglang import __version__, clock
from mars_sglang.engine.admission_gate import AdmissionGate
from mars_sglang.engine.server_stream import ServerStream, program_state
from mars_sglang.engine.server_turns import ServerTurns
from mars_sglang.stream.events import PausePredicted, ProgramState
from mars_sglang.stream.snapshot import ExecutorState

_HTTP_SERVER = "sglang.srt.entrypoints.http_server"
_PREFIX = "/mars"

#: Programs shown unless more are asked for, and at most.
SHOWN_PROGRAMS, MAX_SHOWN_PROGRAMS = 100, 10_000

#: Fields of a window that are shown.
_WINDOW = (
    "policy",
    "admitted",
    "waiting",
    "paused",
    "footprint_tokens",
    "anonymous_tokens",
    "capacity_tokens",
    "host_tokens",
)
#: Fields of a ticket that are shown.
_DECISION = ("time_s", "program", "decision", "waited_s", "reason")
#: Fields of a program's state that are not shown.
_NOT_SHOWN = ("retained_pages", "page_tokens", "under_way")

#: Fields of an event that say who sent it.
_SENDER = ("source", "source_seq", "time_s", "program", "turn")


def add_routes(turns: ServerTurns) -> None:
    """Add our routes, behind the server's own authorisation; nothing in an ``Engine`` without HTTP."""
    http_server = sys.modules.get(_HTTP_SERVER)
    if http_server is None:
        return
    from fastapi import HTTPException, Query, Request

    app = http_server.app
    # A second server of the same process replaces the first one's.
    app.router.routes[:] = [
        route for route in app.router.routes if not getattr(route, "path", "").startswith(_PREFIX + "/")
    ]

    @app.get(_PREFIX + "/state")
    async def state(programs: Annotated[int, Query(ge=0, le=MAX_SHOWN_PROGRAMS)] = SHOWN_PROGRAMS):
        turns.watch()
        return state_of(turns, programs)

    @app.delete(_PREFIX + "/programs/{program:path}")
    async def end_program(program: str, request: Request):
        ended = turns.scoped(program, request.headers)
        if not turns.program_over(ended, "deleted"):
            raise HTTPException(404, f"no program {program!r} is known to this server for the sender's API key")
        return {"program": program, "ended": True}


def state_of(turns: ServerTurns, limit: int) -> dict[str, Any]:
    """What the state page shows: the newest ``limit`` programs and all counts."""
    now_s, stream = clock.now(), turns.stream
    predictions = stream.predictions if stream else {}
    return {
        "version": __version__,
        "now_s": now_s,
        "turn_policy": turns.config.turn_policy,
        "admission": turns.config.admission,
        "gate": _gate(turns.gate, stream) if turns.gate else None,
        "placement": turns.placement.report() if turns.placement else None,
        "stream": stream.report() if stream else None,
        "executors": [_executor(executor, now_s) for executor in (stream.executor_states() if stream else ())],
        "programs_known": len(turns.programs),
        "programs": [
            _program(program_state(known, turns.admission_of(known)), predictions.get(known.program))
            for known in islice(turns.programs.newest(), limit)
        ],
    }


def _gate(gate: AdmissionGate, stream: ServerStream | None) -> dict[str, Any]:
    """What the gate holds, as the control process said last, and what this process made of it."""
    window = stream.window if stream else None
    shown = {} if window is None else {name: getattr(window, name) for name in _WINDOW}
    decisions = [
        {name: getattr(ticket, name) for name in _DECISION} for ticket in reversed(stream.decisions if stream else ())
    ]
    return {
        **shown,
        "control": gate.open or "answers",
        "turns_waiting": gate.waiting,
        **asdict(gate.counters),
        "decisions": decisions,
    }


def _executor(executor: ExecutorState, now_s: float) -> dict[str, Any]:
    fields = msgspec.structs.asdict(executor.load)
    said = {name: fields[name] for name in fields if name not in _SENDER}
    return {"age_s": max(0.0, now_s - executor.at_s), "load": "unknown" if executor.stale else "known"} | said


def _program(known: ProgramState, prediction: PausePredicted | None) -> dict[str, Any]:
    """A program, and while it is inside a tool when it is expected back, in seconds from its turn's end."""
    shown = msgspec.structs.asdict(known) | {"tools": [msgspec.structs.asdict(use) for use in known.tools]}
    for name in _NOT_SHOWN:
        del shown[name]
    if prediction is not None and known.phase == "acting":
        back = zip(prediction.probabilities, prediction.quantiles_s, strict=True)
        shown["predicted"] = {"from": prediction.key, "back_s": {f"{p:g}": seconds for p, seconds in back}}
    return shown
