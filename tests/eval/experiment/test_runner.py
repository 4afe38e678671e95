"""Running what is missing, with an engine that takes no time."""

import json
import platform
import signal
from pathlib import Path

import pytest

from eval.experiment.runner import run
from eval.experiment.store import Store, StoreError
from tests.eval.experiment.fake_engine import fake_engine, small


def quiet(_):
    pass


def results(folder: Path):
    return sorted(folder.glob("*.json"))


def test_every_cell_gets_a_file_with_what_decided_it(tmp_path):
    tally = run(small(), tmp_path, say=quiet, engine=fake_engine)
    assert (tally.done, tally.there, tally.failed, tally.interrupted) == (18, 0, 0, False)
    document = json.loads(results(tmp_path)[0].read_text())
    assert document["configuration"]["setup"]["turn"] in results(tmp_path)[0].name
    assert document["key"] in results(tmp_path)[0].name
    assert document["versions"]["sglang"]
    assert document["machine"]["cores"] >= 1
    assert len(document["programs"]["makespan_s"]) == 8
    assert document["summary"]["completed"] == 8
    assert document["counters"] == {"passes": 10}
    assert max(len(column) for column in document["timeline"].values()) <= 160


def test_nothing_in_a_file_says_whose_machine_it_was(tmp_path):
    run(small(seeds=0), tmp_path, say=quiet, engine=fake_engine)
    for path in results(tmp_path):
        text = path.read_text()
        assert platform.node() not in text or len(platform.node()) < 4
        assert str(Path.home()) not in text
        assert str(tmp_path) not in text


def test_a_finished_cell_is_not_run_again_and_a_changed_one_is(tmp_path):
    run(small(), tmp_path, say=quiet, engine=fake_engine)
    ran = []

    def watched(cell, drawn):
        ran.append(cell)
        return fake_engine(cell, drawn)

    assert run(small(), tmp_path, say=quiet, engine=watched).there == 18
    assert ran == []
    assert run(small(loads=[0.1, 0.5]), tmp_path, say=quiet, engine=watched).done == 9
    assert {cell.point.arrivals.rate for cell in ran} == {0.5}


def test_only_picks_by_label(tmp_path):
    assert run(small(), tmp_path, only="lpm seed 1", say=quiet, engine=fake_engine).done == 2


def test_ctrl_c_leaves_what_is_finished_and_the_next_run_goes_on(tmp_path):
    calls = 0

    def stopped(cell, drawn):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return fake_engine(cell, drawn)

    tally = run(small(), tmp_path, say=quiet, engine=stopped)
    assert (tally.done, tally.interrupted) == (3, True)
    assert len(results(tmp_path)) == 3
    assert run(small(), tmp_path, say=quiet, engine=fake_engine).done == 15


def test_sigterm_counts_as_ctrl_c_and_the_handler_is_put_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)

    def stopped(cell, drawn):
        signal.raise_signal(signal.SIGTERM)

    assert run(small(), tmp_path, say=quiet, engine=stopped).interrupted
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_cell_that_fails_is_told_and_the_others_run(tmp_path):
    said = []

    def failing(cell, drawn):
        if cell.setup.label == "lpm":
            raise RuntimeError("no such luck")
        return fake_engine(cell, drawn)

    tally = run(small(seeds=0), tmp_path, say=said.append, engine=failing)
    assert (tally.done, tally.failed) == (4, 2)
    assert sum("FAILED: RuntimeError: no such luck" in line for line in said) == 2
    assert len(results(tmp_path)) == 4
    assert len(list(tmp_path.glob("logs/*lpm*.error.txt"))) == 2
    # It is still missing, so it is tried again.
    assert run(small(seeds=0), tmp_path, say=quiet, engine=fake_engine).done == 2


def test_each_line_tells_place_and_time_left(tmp_path):
    said = []
    run(small(seeds=[0, 1]), tmp_path, say=said.append, engine=fake_engine)
    assert said[1].startswith("[1/12] simulator generated:30 l40s-llama-3.1-8b 0.1/s fcfs seed 0: mean ")
    assert said[-1].endswith("; 0 s left")


def test_a_foreign_file_in_the_directory_is_an_error(tmp_path):
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(StoreError, match=r"other\.json: format: None; accepted: 1"):
        run(small(), tmp_path, say=quiet, engine=fake_engine)
    (tmp_path / "other.json").write_text("{")
    with pytest.raises(StoreError, match=r"other\.json: cannot be read"):
        Store(tmp_path).finished()


def test_a_write_that_breaks_off_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        Store(tmp_path).save("cell.json", {"key": object()})
    assert list(tmp_path.iterdir()) == []
