"""What a policy remembers by an id that clients choose."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

V = TypeVar("V")

#: Programs, and turns under way, that a policy remembers: as many as the engine's own table holds.
MAX_REMEMBERED = 20_000


class BoundedTable(Generic[V]):
    """Values by id, of which the least recently touched is forgotten first.

    Args:
        make: a new value.
        limit: how many are remembered.
    """

    def __init__(self, make: Callable[[], V], limit: int = MAX_REMEMBERED):
        self._values: OrderedDict[str, V] = OrderedDict()
        self._make = make
        self._limit = limit

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str | None) -> V | None:
        """The value, its place unchanged."""
        return None if key is None else self._values.get(key)

    def touch(self, key: str) -> V:
        """The value, made if there is none, and the last to be forgotten from now on."""
        value = self._values.get(key)
        if value is None:
            value = self._values[key] = self._make()
            if len(self._values) > self._limit:
                self._values.popitem(last=False)
        else:
            self._values.move_to_end(key)
        return value

    def pop(self, key: str) -> V | None:
        """Forget the value; what it was."""
        return self._values.pop(key, None)
