"""Cells in the real simulator, and what they are held against."""

import pytest

from eval.experiment.alone import Alone
from eval.experiment.measures import measures
from eval.experiment.reference import measure_reference, reference_of
from eval.experiment.report import write_report
from eval.experiment.runner import measure_cell, run
from eval.experiment.store import Store
from eval.experiment.study import Study
from eval.replay.arrivals import Arrivals
from eval.setup import Setup
from eval.simulator import simulate
from eval.workload import load
from mars_sglang.emulation.profiles import load_profile
from tests.eval.experiment.fake_engine import small

TINY = {"loads": 1.0, "seeds": 0, "programs": 6}


@pytest.mark.parametrize("name", ["l40s-llama-3.1-8b", "h200-qwen3-coder-30b"])
def test_a_program_alone_in_the_simulator_takes_its_time_alone(name):
    profile = load_profile(name)
    for program in load("swebench")[:3]:
        found = simulate([program], Arrivals(), Setup(), profile, seed=0, tool_slots=None, max_pause_s=60, client_s=0.0)
        ratio = found.result.programs[0].makespan_s / Alone(profile).program_s(program, 60)
        assert 0.999 <= ratio < 1.005


def test_a_cell_measured_twice_is_the_same(tmp_path):
    cell = small(**TINY).cells[1]
    first, second = (measure_cell(cell, tmp_path) for _ in range(2))
    for document in (first, second):
        for name in ("wall_s", "replayer_cpu_s"):
            del document["summary"][name]
        del document["wall_s"]
    assert first == second
    assert measures(first)["completed"] == 1
    assert measures(first)["cached"] <= measures(first)["possible"] <= 1


def test_several_processes_make_what_one_makes(tmp_path):
    experiment = small(**TINY)
    for name, jobs in (("one", 1), ("two", 2)):
        assert run(experiment, tmp_path / name, jobs=jobs, say=lambda _: None).done == 3
    one, two = (
        {m.cell.key: m.document["programs"] for m in Study(Store(tmp_path / name).read()).cells}
        for name in ("one", "two")
    )
    assert one == two


def test_nothing_beats_the_bound_and_the_report_tells_the_distance(tmp_path):
    experiment = small(**TINY | {"reference": True})
    assert run(experiment, tmp_path, jobs=1, say=lambda _: None).done == 4
    study = Study(Store(tmp_path).read())
    assert len(study.cells) == 3
    for measured in study.cells:
        assert measured.measures["over_bound"] >= 1
        assert measured.measures["over_clairvoyant"] > 0
    assert "mean / lower bound" in write_report(study, tmp_path / "report").read_text()


def test_a_reference_belongs_to_point_and_seed_and_host_tier():
    cells = small(setups=["fcfs", "lpm", {"turn": "lpm", "host_ratio": 4}], loads=1.0, seeds=[0, 1]).cells
    assert len({reference_of(cell).key for cell in cells}) == 4


def test_at_a_fixed_concurrency_there_is_no_bound_for_all_policies():
    cell = small(**TINY | {"loads": {"concurrency": 2}}).cells[0]
    found = measure_reference(reference_of(cell))["reference"]
    assert "lower_bound_s" not in found
    assert found["clairvoyant_s"] > 0


def test_the_clairvoyant_is_a_setup_of_its_own(tmp_path):
    cell = small(**TINY | {"setups": ["clairvoyant"]}).cells[0]
    assert measure_cell(cell, tmp_path)["summary"]["completed"] == 6


def test_tools_without_a_limit_have_no_share_in_use(tmp_path):
    cell = small(**TINY | {"tool_slots": 0}).cells[0]
    tools = measure_cell(cell, tmp_path)["summary"]["tools"]
    assert (tools["slots"], tools["slot_use"]) == (None, None)
