"""A cell on the real server with emulated timing."""

import os

import pytest

from eval.experiment.measures import measures
from eval.experiment.runner import run
from eval.experiment.store import Store
from eval.experiment.study import Study
from mars_sglang.clock import SPEED_ENV
from tests.eval.experiment.fake_engine import small


@pytest.mark.server
@pytest.mark.timeout(300)
def test_a_cell_runs_on_a_server_of_its_own(tmp_path):
    before = os.environ.get(SPEED_ENV)
    experiment = small(
        engines="emulated", workloads="swebench", loads="all at once", programs=4, seeds=0, setups="lpm", max_pause_s=2,
        speed=4,
    )  # fmt: skip
    said = []
    assert run(experiment, tmp_path, say=said.append).done == 1, said
    (measured,) = Study(Store(tmp_path).read()).cells
    summary = measured.document["summary"]
    assert (summary["completed"], summary["turns"], summary["retractions"]) == (4, 12, 0)
    assert summary["emulation_error"]["speed"] == 4
    assert measures(measured.document)["cached"] > 0.3
    assert any(share is not None for share in measured.document["timeline"]["kv_share"])
    assert len(list(tmp_path.glob("logs/*.log"))) == 1
    assert os.environ.get(SPEED_ENV) == before


def test_a_server_that_cannot_start_is_a_failed_cell(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    said = []
    experiment = small(engines="emulated", loads=1.0, seeds=0, setups="lpm")
    tally = run(experiment, tmp_path / "out", say=said.append)
    assert (tally.done, tally.failed) == (0, 1)
    assert "ServerError: mars-sglang is not installed here" in said[-1]
