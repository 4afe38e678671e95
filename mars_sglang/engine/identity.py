"""Whose turn is it: the ids that agents already send, in the body or in a header.

Which ids those are is data, ``identity.toml``; ``docs/identity.md`` explains the levels. Ids are
untrusted. They are bounded in size, scoped to the tenant that sent them, and used for
scheduling only: the worst that a wrong one does is to cost its own sender time.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mars_sglang.engine.identity_sources import ID_LEVELS, SHIPPED, Source, Sources
from mars_sglang.engine.refusals import RequestRefused
from mars_sglang.stream.tenant import scoped
from mars_sglang.tenants import TENANT_HEADER, tenant_of

MAX_ID_CHARACTERS = 256

#: Levels at which two different values contradict each other. A parent is only a link, so there the first counts.
_EXCLUSIVE = ("program", "child", "root")

#: Largest size of a number in a hint; what the host's own fields hold.
_MAX_NUMBER = 2**31 - 1

#: Under this key some clients nest the fields that their OpenAI SDK does not know.
_NESTED = "extra_body"


class IdentityError(RequestRefused):
    """A request whose ids cannot be used."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a request says about its program. Everything is scoped to its tenant or bounded in size."""

    program: str | None
    last: bool = False
    """The client called this turn its program's last."""
    parent: str | None = None
    """The program that started this one as a sub-agent."""
    recognised_by: str | None = None
    """Where the id stood, such as ``header x-session-id``; None without a program."""
    group: str = ""
    """Tenant and user: requests of different groups are never of one program."""
    tool: str | None = None
    """The tool whose result this turn brings."""
    next_tool: str | None = None
    """The tool that the client expects the answer to call."""
    expected_output_tokens: int | None = None
    priority: int | None = None
    """A higher number is more urgent."""
    remaining_turns: int | None = None
    """Turns of the program after this one, as the client expects."""
    tenant: str = ""
    """Whose it is where shares are given out; empty for the one without a key or a name."""
    gated: bool = True
    """Whether it is scheduled as a program's; a first turn that may be of a mere chat is not."""


def identify(body: Mapping[str, Any], headers: Mapping[str, str], sources: Sources | None = None) -> Identity:
    """Find the program of a request, and what else its client says about it.

    Args:
        body: the parsed JSON body. What its ``extra_body`` holds counts as well.
        headers: names in any case.
        sources: where to look; the shipped table if None.

    Raises:
        IdentityError: an id that is not 1 to 256 printable characters, or two that contradict each other.
    """
    sources = sources or SHIPPED
    found: list[tuple[int, Source, Any]] = []
    authorization = api_key = named = None
    for name, value in headers.items():
        name = name.lower()
        if name == "authorization":
            authorization = authorization or value
        elif name == "x-api-key":
            api_key = api_key or value
        elif name == TENANT_HEADER:
            named = value
        # Proxies forward a header that was not there as an empty one.
        elif value and (known := sources.header(name)) is not None:
            found.append((*known, value))
    _walk(sources.body, body, found)
    if isinstance(nested := body.get(_NESTED), Mapping):
        _walk(sources.body, nested, found)
    tenant = authorization or api_key
    owner = tenant_of(tenant, named)
    if not found:
        return Identity(None, group=scoped("", tenant), tenant=owner)
    found.sort(key=_rank)

    said: dict[str, tuple[str, Any]] = {}
    users: list[str] = []
    for _, source, value in found:
        level = source.level
        if level in ID_LEVELS:
            known = said.setdefault(level, (source.label, _checked(source.label, value)))
            if level in _EXCLUSIVE and known[1] != value:
                given = f"{known[0]} = {known[1]!r}, {source.label} = {value!r}"
                raise IdentityError(
                    f"the request names more than one {level}: {given}; send one id, or the same in each"
                )
        elif (hint := _HINTS[level](value)) is not None:
            if level == "group":
                users.append(hint)
            else:
                said.setdefault(level, (source.label, hint))
    program, parent, recognised_by = _resolve(said)

    def hint(level: str) -> Any:
        return said[level][1] if level in said else None

    return Identity(
        program=None if program is None else scoped(program, tenant),
        last="last" in said,
        parent=None if parent is None or parent == program else scoped(parent, tenant),
        recognised_by=recognised_by,
        group=scoped("\n".join(users), tenant),
        tool=hint("tool"),
        next_tool=hint("next_tool"),
        expected_output_tokens=hint("expected_output_tokens"),
        remaining_turns=hint("remaining_turns"),
        priority=hint("priority"),
        tenant=owner,
    )


def _resolve(said: Mapping[str, tuple[str, Any]]) -> tuple[str | None, str | None, str | None]:
    """Program, parent, and where the program's id stood."""
    label, root = said.get("root", (None, None))
    parent = said["parent"][1] if "parent" in said else None
    if "program" in said:
        label, program = said["program"]
    elif "child" in said:
        label, child = said["child"]
        # Nobody promises that a child's id differs from that of another root's child.
        program = _within(root, child)
        parent = _within(root, parent) if parent is not None else root
    elif root is not None:
        program = root
    elif "hint" in said:
        label, program = said["hint"]
    else:
        return None, None, None
    return program, parent, label


def _within(root: str | None, child: str) -> str:
    """A child's id in its root. Codex gives the first thread the id of its session: that is the root itself."""
    if root is None or root == child:
        return child
    joined = f"{root}/{child}"
    return joined if len(joined) <= MAX_ID_CHARACTERS else hashlib.sha256(joined.encode()).hexdigest()


def _rank(found: tuple[int, Source, Any]) -> int:
    return found[0]


def _walk(tree: Mapping[str, Any], fields: Mapping[str, Any], found: list[tuple[int, Source, Any]]) -> None:
    for key, node in tree.items():
        value = fields.get(key)
        if value is None:
            continue
        if isinstance(node, tuple):
            found.append((*node, value))
        elif isinstance(value, Mapping):
            _walk(node, value, found)


def _usable(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARACTERS and value.isprintable()


def _checked(label: str, value: Any) -> str:
    if not _usable(value):
        shown = repr(value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise IdentityError(
            f"{label} is {shown}; a program id is a string of 1 to {MAX_ID_CHARACTERS} printable characters"
        )
    return value


def _text(value: Any) -> str | None:
    return value if _usable(value) else None


def _yes(value: Any) -> bool | None:
    return True if value is True or (isinstance(value, str) and value.lower() in ("true", "1")) else None


def _number(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.removeprefix("-").isdigit() and len(value) <= 11:
        value = int(value)
    return value if type(value) is int and abs(value) <= _MAX_NUMBER else None


def _count(value: Any) -> int | None:
    number = _number(value)
    return number if number is not None and number >= 0 else None


def _tokens(value: Any) -> int | None:
    number = _number(value)
    return number if number is not None and number > 0 else None


_HINTS = {
    "hint": _text,
    "group": _text,
    "last": _yes,
    "tool": _text,
    "next_tool": _text,
    "expected_output_tokens": _tokens,
    "remaining_turns": _count,
    "priority": _number,
}
