"""The coarse time line of a run."""

from eval.experiment.outcome import LOOKS, timeline
from eval.replay.record import Sample
from eval.replay.replay import RunResult
from tests.eval.builders import program_record, turn_record


def test_without_samples_it_is_counted_from_the_records():
    # A request waits until 1 s and runs until 2 s, its tool until 7 s, a second request from 7 to 10 s.
    turns = [turn_record(tool="ls", tool_wait_s=1.0, tool_s=4.0),
             turn_record(turn=1, sent_s=7.0, first_token_s=8.0, last_token_s=10.0)]  # fmt: skip
    line = timeline(RunResult([program_record(turns=turns)]))
    assert len(line["at_s"]) == LOOKS

    def at(second):
        looked = next(i for i, t in enumerate(line["at_s"]) if t >= second)
        return [line[name][looked] for name in ("programs", "waiting", "running", "in_tools")]

    assert [at(0.5), at(1.5), at(4), at(7.5), at(9)] == [
        [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [1, 1, 0, 0], [1, 0, 1, 0],
    ]  # fmt: skip
    assert set(line["kv_share"]) == {None}


def test_many_samples_are_thinned_and_the_last_is_kept():
    samples = [Sample(float(i), i, i / 1000, 1, 0, 1, 0, 0) for i in range(1000)]
    line = timeline(RunResult([], samples))
    assert len(line["at_s"]) <= LOOKS
    assert line["at_s"][-1] == 999
    assert line["at_s"] == sorted(line["at_s"])
    assert line["kv_share"][-1] == 0.999


def test_nothing_has_an_empty_line():
    assert timeline(RunResult([]))["at_s"] == []
