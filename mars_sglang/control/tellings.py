"""Runs of a source's state, put together from their parts."""

from collections import OrderedDict

from mars_sglang.stream.events import SourceState

#: Parts of one run (100,000 short programs), and sources that tell theirs at a time.
MAX_PARTS, MAX_TELLING = 256, 8


class Tellings:
    """Collects the parts of every source that is telling its state."""

    def __init__(self):
        self._parts: OrderedDict[str, list[SourceState]] = OrderedDict()

    def hear(self, event: SourceState) -> list[SourceState] | None:
        """The whole run when this part ends it; None before, and for a run with a part missing."""
        parts = self._parts.setdefault(event.source, [])
        if event.part == 0:
            parts.clear()
        if event.part != len(parts) or event.part >= MAX_PARTS:
            del self._parts[event.source]
            return None
        parts.append(event)
        if not event.done:
            while len(self._parts) > MAX_TELLING:
                self._parts.popitem(last=False)
            return None
        return self._parts.pop(event.source)

    def forget(self, source: str) -> None:
        """The source is gone."""
        self._parts.pop(source, None)
