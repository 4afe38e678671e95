"""Ids belong to the tenant that sent them. The server and a tool host have to write them alike."""

import hashlib

#: Hexadecimal digits of the key's digest that stand before an id: 48 bits tell tenants apart
#: and do not give the key away.
DIGITS = 12


def scoped(program: str, authorization: str | None) -> str:
    """The id as every part of the system writes it. Two tenants that use the same id mean two programs.

    Args:
        program: the id as the client sent it.
        authorization: the whole value of the ``Authorization`` header, else that of
            ``x-api-key``; None or empty where the client has no key. It is not kept.
    """
    if not authorization:
        return program
    return f"{hashlib.sha256(authorization.encode()).hexdigest()[:DIGITS]}/{program}"
