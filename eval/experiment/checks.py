"""Reading checked values out of a TOML table. Every error names file, key, value and what is accepted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NoReturn

_REQUIRED = object()

Check = Callable[[Any], Any]
"""Gives the value as it is used, or raises ValueError with the text of what is accepted."""


class ExperimentError(ValueError):
    """An experiment that cannot be run. The message names file, key, value and what is accepted."""


class Table:
    """One table of the file; ``where`` names it in errors."""

    def __init__(self, where: str, values: Mapping[str, Any], accepted: Collection[str]) -> None:
        self.where = where
        self._values = dict(values)
        for key in values:
            if key not in accepted:
                raise ExperimentError(f"{where}: {key}: {values[key]!r}: unknown key; accepted: {', '.join(accepted)}")

    def one(self, key: str, check: Check, default: Any = _REQUIRED) -> Any:
        """The checked value of ``key``, or ``default`` as it is."""
        if key not in self._values:
            if default is _REQUIRED:
                raise ExperimentError(f"{self.where}: {key}: missing; accepted: a value")
            return default
        return self._checked(key, self._values[key], check)

    def many(self, key: str, check: Check, default: Any = _REQUIRED) -> list[Any]:
        """As :meth:`one` for each of a list; a bare value is a list of one."""
        if key not in self._values:
            if default is _REQUIRED:
                raise ExperimentError(f"{self.where}: {key}: missing; accepted: a list of at least one")
            return default
        values = self._values[key]
        values = values if isinstance(values, list) else [values]
        if not values:
            self.refuse(key, values, "a list of at least one")
        return [self._checked(key, value, check) for value in values]

    def tables(self, key: str, accepted: Collection[str]) -> list[Table]:
        """The tables of an array of tables; empty where there are none."""
        values = self._values.get(key, [])
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            self.refuse(key, values, f"tables, each headed [[{key}]]")
        return [Table(f"{self.where}: {key}[{index}]", value, accepted) for index, value in enumerate(values)]

    def over(self, top: Table) -> Table:
        """This table, and what ``top`` says where this one is silent."""
        values = top._values | self._values
        return Table(self.where, values, values)

    def refuse(self, key: str, value: Any, accepted: str) -> NoReturn:
        """Raises ExperimentError."""
        raise ExperimentError(f"{self.where}: {key}: {value!r}; accepted: {accepted}")

    def _checked(self, key: str, value: Any, check: Check) -> Any:
        try:
            return check(value)
        except ValueError as error:
            self.refuse(key, value, str(error))


def text(value: Any) -> str:
    """A string that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("text, not empty")
    return value.strip()


def truth(value: Any) -> bool:
    """``true`` or ``false``."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def whole(least: int) -> Check:
    """A whole number of at least ``least``."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"a whole number, {least} or more")
        return value

    return check


def number(least: float) -> Check:
    """A finite number of at least ``least``."""

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < float("inf"):
            raise ValueError(f"a number, {least:g} or more")
        return value

    return check


def one_of(names: Sequence[str]) -> Check:
    """One of ``names``."""

    def check(value: Any) -> str:
        if value not in names:
            raise ValueError(", ".join(names))
        return value

    return check
