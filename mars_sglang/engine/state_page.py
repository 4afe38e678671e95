"""``GET /mars/state`` and ``DELETE /mars/programs/ID`` on SGLang's own HTTP server."""

import sys
from typing import Annotated

from mars_sglang.engine.server_turns import ServerTurns

_HTTP_SERVER = "sglang.srt.entrypoints.http_server"
_PREFIX = "/mars"

#: Programs shown unless more are asked for, and at most.
SHOWN_PROGRAMS, MAX_SHOWN_PROGRAMS = 100, 10_000


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
        return turns.state(programs)

    @app.delete(_PREFIX + "/programs/{program:path}")
    async def end_program(program: str, request: Request):
        ended = turns.scoped(program, request.headers)
        if not turns.program_over(ended, "deleted"):
            raise HTTPException(404, f"no program {program!r} is known to this server for the sender's API key")
        return {"program": program, "ended": True}
