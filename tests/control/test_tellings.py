"""A source's state counts when its run of parts is whole, and what is collected meanwhile is bounded."""

from mars_sglang.control import tellings as tellings_module
from mars_sglang.control.tellings import Tellings
from mars_sglang.stream.events import SourceState


def part(number: int, done: bool = False, source: str = "server:h:1:a") -> SourceState:
    return SourceState(source=source, role="server", part=number, done=done)


def test_a_run_is_whole_with_its_last_part():
    tellings = Tellings()
    assert [tellings.hear(part(number)) for number in range(2)] == [None, None]
    assert tellings.hear(part(2, done=True)) == [part(0), part(1), part(2, done=True)]
    assert tellings.hear(part(0, done=True)) == [part(0, done=True)]


def test_a_run_with_a_part_missing_or_twice_counts_for_nothing():
    for numbers in ((0, 2), (1,), (0, 1, 1)):
        tellings = Tellings()
        *before, last = numbers
        assert all(tellings.hear(part(number)) is None for number in before)
        assert tellings.hear(part(last, done=True)) is None
        assert tellings.hear(part(0, done=True)) == [part(0, done=True)]


def test_a_run_that_begins_anew_forgets_the_one_before():
    tellings = Tellings()
    tellings.hear(part(0))
    tellings.hear(part(1))
    tellings.hear(part(0))
    assert tellings.hear(part(1, done=True)) == [part(0), part(1, done=True)]


def test_sources_tell_at_the_same_time_and_a_stopped_one_is_forgotten():
    tellings = Tellings()
    for source in ("a", "b"):
        tellings.hear(part(0, source=source))
    tellings.forget("a")
    assert tellings.hear(part(1, done=True, source="a")) is None
    assert tellings.hear(part(1, done=True, source="b")) is not None


def test_too_many_sources_and_too_many_parts_count_for_nothing(monkeypatch):
    monkeypatch.setattr(tellings_module, "MAX_TELLING", 2)
    monkeypatch.setattr(tellings_module, "MAX_PARTS", 3)
    tellings = Tellings()
    for source in "abc":
        tellings.hear(part(0, source=source))
    told = {source: tellings.hear(part(1, done=True, source=source)) for source in "abc"}
    assert [source for source, parts in told.items() if parts] == ["b", "c"]
    assert all(tellings.hear(part(number)) is None for number in range(3))
    assert tellings.hear(part(3, done=True)) is None
