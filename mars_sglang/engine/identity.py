"""Whose turn is it: the ids that agents already send, in the body or in a header.

Ids are untrusted. They are bounded in size, scoped to the tenant that sent them, and used
for scheduling only: the worst that a wrong one does is to cost its own sender time.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Where an id may stand, the canonical place first.
BODY_FIELDS = ("program_id", "job_id", "session_id")
HEADERS = ("x-session-id", "x-litellm-session-id")

#: Body field by which a client says that a turn is the last of its program.
LAST_TURN_FIELD = "is_last_step"

MAX_ID_CHARACTERS = 256


class IdentityError(ValueError):
    """A request whose ids cannot be used; SGLang answers a ValueError with HTTP 400."""

    status_code = 400


@dataclass(frozen=True, slots=True)
class Identity:
    """Program of a request, scoped to its tenant, and whether the client called this turn its last."""

    program: str | None
    last: bool = False


def identify(body: Mapping[str, Any], headers: Mapping[str, str]) -> Identity:
    """Find the program of a request.

    Args:
        body: the parsed JSON body.
        headers: with lower-case names, or any mapping that does not mind the case.

    Raises:
        IdentityError: an id that is not 1 to 256 printable characters, or two that differ.
    """
    found: dict[str, str] = {}
    for field in BODY_FIELDS:
        if body.get(field) is not None:
            found[f"body field {field}"] = _checked(f"body field {field}", body[field])
    for header in HEADERS:
        if headers.get(header) is not None:
            found[f"header {header}"] = _checked(f"header {header}", headers[header])
    if len(set(found.values())) > 1:
        given = ", ".join(f"{where} = {value!r}" for where, value in found.items())
        raise IdentityError(f"the request names more than one program: {given}; send one id, or the same in each")
    program = next(iter(found.values()), None)
    if program is None:
        return Identity(None)
    return Identity(_scoped(program, headers.get("authorization")), last=body.get(LAST_TURN_FIELD) is True)


def _checked(where: str, value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_CHARACTERS or not value.isprintable():
        shown = repr(value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise IdentityError(
            f"{where} is {shown}; a program id is a string of 1 to {MAX_ID_CHARACTERS} printable characters"
        )
    return value


def _scoped(program: str, authorization: str | None) -> str:
    """Two tenants that use the same id mean two programs. The key itself is not kept."""
    if not authorization:
        return program
    return f"{hashlib.sha256(authorization.encode()).hexdigest()[:12]}/{program}"
