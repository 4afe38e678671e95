"""Whose a request is, and the weights of tenants that an operator sets in a file."""

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mars_sglang.stream.tenant import DIGITS, scoped

#: Names the tenant of a request without a key.
TENANT_HEADER = "x-mars-tenant"

MAX_NAME_CHARACTERS = 64

#: Before a tenant that a header named: no digest begins with it, so no header makes a client one with a key.
_NAMED = "@"

_KEY = re.compile(f"[0-9a-f]{{{DIGITS}}}")
_FIELDS = ("key", "weight")


class TenantsError(ValueError):
    """A table of tenants that cannot be used; names file, tenant, field, value and what is accepted."""


@dataclass(frozen=True, slots=True)
class Tenants:
    """What a file says of tenants."""

    weights: Mapping[str, float] = field(default_factory=dict)
    """By tenant, as :func:`tenant_of` writes it; one that is not in it has weight 1."""


def tenant_of(authorization: str | None, header: str | None) -> str:
    """Whose a request is: the digits of its key's digest; ``@`` and the name where it has no key but a header that
    names one; empty for the one without either.

    Args:
        authorization: the whole value of the ``Authorization`` header, else that of ``x-api-key``.
        header: value of :data:`TENANT_HEADER`. Beside a key it means nothing, and one that is no name (of 1 to
            :data:`MAX_NAME_CHARACTERS` printable characters) is as good as none.
    """
    if authorization:
        return scoped("", authorization)[:DIGITS]
    return _NAMED + header if header and _is_name(header) else ""


def load_tenants(path: Path) -> Tenants:
    """Read a TOML file with the table ``[tenants]``: a name to ``{key = "<12 hex digits>", weight = <number>}``.

    ``key`` is the beginning of the SHA-256 of what the tenant's clients send as ``Authorization``; an entry without
    one is of the tenant that :data:`TENANT_HEADER` names so, and the empty name of the one without key and header.
    ``weight`` is 1 if it is left out.

    Raises:
        TenantsError: a file that cannot be read, or holds anything else.
    """
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise TenantsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TenantsError(f"{path}: no TOML: {error}") from error
    table = document.get("tenants")
    if not isinstance(table, dict) or len(document) > 1:
        others = ", ".join(sorted(set(document) - {"tenants"})) or "nothing"
        raise TenantsError(f"{path}: found {others}; accepted: one table, [tenants]")
    weights: dict[str, float] = {}
    names: dict[str, str] = {}
    for name, entry in table.items():
        tenant, weight = _entry(f"{path}: tenant {name!r}", name, entry)
        if tenant in weights:
            raise TenantsError(f"{path}: tenants {names[tenant]!r} and {name!r} have the same key {tenant}")
        weights[tenant], names[tenant] = weight, name
    return Tenants(weights)


def _entry(where: str, name: str, entry: Any) -> tuple[str, float]:
    """The tenant and its weight."""
    if not isinstance(entry, dict):
        raise TenantsError(f'{where}: {entry!r}; accepted: {{ key = "<{DIGITS} hex digits>", weight = <number> }}')
    for unknown in sorted(set(entry) - set(_FIELDS)):
        raise TenantsError(f"{where}: unknown field {unknown!r}; accepted: {', '.join(_FIELDS)}")
    weight = entry.get("weight", 1)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not (weight > 0 and math.isfinite(weight)):
        raise TenantsError(f"{where}: weight {weight!r}; accepted: a number above 0")
    if "key" not in entry:
        if name and not _is_name(name):
            raise TenantsError(
                f"{where}: without a key its name is a value of {TENANT_HEADER}; accepted: up to "
                f"{MAX_NAME_CHARACTERS} printable characters"
            )
        return tenant_of(None, name), float(weight)
    key = entry["key"]
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        # Not the value itself: it may be the key in plain text, and errors end up in logs.
        raise TenantsError(
            f"{where}: key of {len(key) if isinstance(key, str) else 0} characters; accepted: the first {DIGITS} hex "
            "digits, in lower case, of the SHA-256 of the Authorization header's whole value"
        )
    return key, float(weight)


def _is_name(text: str) -> bool:
    return len(text) <= MAX_NAME_CHARACTERS and text.isprintable()
