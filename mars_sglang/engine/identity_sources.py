"""Where clients put their ids: the shipped table, ``identity.toml``, and a user's own."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Levels whose values are ids: a bad one is an error.
ID_LEVELS = ("program", "child", "root", "parent")
#: Levels whose values are hints: a bad one is as good as none.
HINT_LEVELS = ("hint", "group", "last", "tool", "next_tool", "expected_output_tokens", "remaining_turns", "priority")
LEVELS = ID_LEVELS + HINT_LEVELS


class SourcesError(ValueError):
    """A table of sources that cannot be used; names file, key, value and what is accepted."""


@dataclass(frozen=True, slots=True)
class Source:
    """One place where a client may say something.

    ``place`` is a path of keys with dots between them for the body, or a lower-case header name
    in which one ``*`` stands for any characters. ``label`` is how messages call it.
    """

    where: str
    place: str
    level: str

    @property
    def label(self) -> str:
        return f"body field {self.place}" if self.where == "body" else f"header {self.place}"


class Sources:
    """A table of sources, compiled for :func:`identify`. Of one level the first one that is there counts.

    Raises:
        SourcesError: two body paths of which one goes through the other.
    """

    def __init__(self, sources: Iterable[Source]):
        self.table = tuple(sources)
        self.headers: dict[str, tuple[int, Source]] = {}
        self.patterns: list[tuple[str, str, int, str]] = []
        self.body: dict[str, Any] = {}
        for rank, source in enumerate(self.table):
            if source.where == "body":
                self._add_path(rank, source)
            elif "*" in source.place:
                before, _, after = source.place.partition("*")
                self.patterns.append((before, after, rank, source.level))
            else:
                self.headers[source.place] = (rank, source)

    def _add_path(self, rank: int, source: Source) -> None:
        *parents, name = source.place.split(".")
        node = self.body
        for key in parents:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict) or isinstance(node.get(name), dict):
            raise SourcesError(f"body = {source.place!r} and another source need the same field as text and as object")
        node[name] = (rank, source)

    def header(self, name: str) -> tuple[int, Source] | None:
        """The source for a header in lower case; one that names it goes before one with a ``*``."""
        known = self.headers.get(name)
        if known is None:
            for before, after, rank, level in self.patterns:
                if name.startswith(before) and name.endswith(after) and len(name) > len(before) + len(after):
                    return rank, Source("header", name, level)
        return known


def load_sources(path: Path) -> Sources:
    """Read a table of sources.

    The file's sources go before the shipped ones and replace those for the same place, unless
    it says ``replace = true``: then they are all there is.

    Raises:
        SourcesError: a file that cannot be read, or a table that says something else than
            sources; names file, key, value and what is accepted.
    """
    own = _read(path)
    shipped = () if own.pop("replace") else SHIPPED.table
    places = {(source.where, source.place) for source in own["source"]}
    try:
        return Sources((*own["source"], *(s for s in shipped if (s.where, s.place) not in places)))
    except SourcesError as error:
        raise SourcesError(f"{path}: {error}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SourcesError(f"{path}: {error}; accepted: a TOML file with [[source]] tables") from None
    if unknown := content.keys() - {"replace", "source"}:
        raise SourcesError(f"{path}: {min(unknown)} is unknown; accepted: replace, source")
    replace = content.get("replace", False)
    if not isinstance(replace, bool):
        raise SourcesError(f"{path}: replace = {replace!r}; accepted: true, false")
    tables = content.get("source", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SourcesError(f"{path}: source = {tables!r}; accepted: [[source]] tables")
    return {"replace": replace, "source": [_source(path, number, table) for number, table in enumerate(tables, 1)]}


def _source(path: Path, number: int, table: Mapping[str, Any]) -> Source:
    where = f"{path}: source {number}"
    if unknown := table.keys() - {"body", "header", "level"}:
        raise SourcesError(f"{where}: {min(unknown)} is unknown; accepted: level and one of body, header")
    if ("body" in table) == ("header" in table):
        raise SourcesError(
            f"{where}: has body = {table.get('body')!r} and header = {table.get('header')!r}; accepted: one of them"
        )
    kind = "body" if "body" in table else "header"
    place, level = table[kind], table.get("level")
    if level not in LEVELS:
        raise SourcesError(f"{where}: level = {level!r}; accepted: {', '.join(LEVELS)}")
    if kind == "body":
        if not isinstance(place, str) or not all(place.split(".")):
            raise SourcesError(f"{where}: body = {place!r}; accepted: field names with a dot between them")
    elif not isinstance(place, str) or not place.isascii() or place.count("*") > 1 or not place.strip("*"):
        raise SourcesError(f"{where}: header = {place!r}; accepted: a header name with at most one *")
    return Source(kind, place if kind == "body" else place.lower(), level)


SHIPPED = Sources(_read(Path(__file__).with_name("identity.toml"))["source"])
