"""What an experiment file says, and what it may not say."""

import pytest

from eval.experiment.cell import cell_of
from eval.experiment.checks import ExperimentError
from eval.experiment.experiment import load_experiment
from eval.experiments import shipped_names
from tests.eval.experiment.fake_engine import small


def test_cells_are_the_cross_product_and_the_first_seed_comes_first():
    cells = small(engines=["simulator", "emulated"]).cells
    assert len(cells) == 3 * 2 * 3 * 2
    assert len({cell.key for cell in cells}) == len(cells)
    assert {cell.seed for cell in cells[:12]} == {0}
    assert {cell.speed for cell in cells if cell.engine == "simulator"} == {None}
    assert {cell.speed for cell in cells if cell.engine == "emulated"} == {10.0}


def test_a_points_table_changes_what_it_names_and_inherits_the_rest():
    points = [{"loads": 0.2, "tool_slots": 0}, {"loads": [{"concurrency": 4}, "all at once"], "programs": 5}]
    found = list(dict.fromkeys(cell.point for cell in small(points=points).cells))
    assert [(p.load, p.programs, p.tool_slots) for p in found] == [
        ("0.2/s", 8, None), ("4 at a time", 5, 16), ("all at once", 5, 16),
    ]  # fmt: skip
    assert {p.max_turns for p in found} == {3}


def test_lists_in_a_setup_are_multiplied_out():
    setups = [{"turn": ["lpm", "mars"], "host_ratio": [0, 4]}, "fcfs+mars"]
    labels = list(dict.fromkeys(cell.setup.label for cell in small(setups=setups).cells))
    assert labels == ["lpm", "lpm,host4", "mars", "mars,host4", "fcfs+mars"]


def test_a_cell_reads_back_and_its_key_follows_every_part_of_it():
    cell = small().cells[0]
    assert cell_of(cell.configuration()) == cell
    changed = [
        small(seeds=[7]), small(programs=9), small(max_turns=4), small(max_pause_s=1), small(tool_slots=2),
        small(loads=0.3), small(profiles="a100-40g-llama-3.1-8b"), small(workloads="generated:31"),
        small(setups=[{"turn": "fcfs", "eviction": "tlru"}]), small(engines="emulated"),
        small(engines="emulated", speed=5),
    ]  # fmt: skip
    keys = [cell.key, *(experiment.cells[0].key for experiment in changed)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("change", "key", "value", "accepted"),
    [
        ({"sed": [1]}, "sed", "[1]", "unknown key; accepted: title"),
        ({"loads": [0]}, "loads", "0", "concurrency"),
        ({"loads": [True]}, "loads", "True", "per second"),
        ({"loads": {"concurrency": 0}}, "loads", "{'concurrency': 0}", "concurrency"),
        ({"loads": []}, "loads", "[]", "at least one"),
        ({"engines": "gpu"}, "engines", "'gpu'", "simulator, emulated"),
        ({"programs": 0}, "programs", "0", "1 or more"),
        ({"max_pause_s": float("nan")}, "max_pause_s", "nan", "0 or more"),
        ({"seeds": ["a"]}, "seeds", "'a'", "whole number"),
        ({"workloads": "nothing"}, "workloads", "'nothing'", "swebench"),
        ({"profiles": "tpu"}, "profiles", "'tpu'", "h200-qwen3-coder-30b"),
        ({"setups": ["best"]}, "turn", "'best'", "fcfs"),
        ({"setups": ["fcfs+best"]}, "admission", "'best'", "off"),
        ({"setups": [3]}, "setups", "3", "turn+admission"),
        ({"setups": [{"turn": "lpm", "host": 1}]}, "host", "1", "host_ratio"),
        ({"setups": [{"turn": "lpm", "host_ratio": -1}]}, "host_ratio", "-1", "0 or more"),
        ({"setups": [{"turn": "lpm", "eviction": "fifo"}]}, "eviction", "'fifo'", "tlru"),
        ({"setups": ["lpm", "lpm"]}, "setups", "'lpm'", "once"),
        ({"base": "hrrn"}, "base", "'hrrn'", "fcfs, lpm, mars+mars"),
        ({"points": [{"load": 1}]}, "load", "1", "loads"),
        ({"points": 3}, "points", "3", "[[points]]"),
        ({"engines": "emulated", "setups": ["clairvoyant"]}, "setups", "'clairvoyant'", "simulator"),
        ({"seeds": [1, 1]}, "seed 1", "there twice", "once"),
    ],
)
def test_an_error_names_file_key_value_and_what_is_accepted(change, key, value, accepted):
    with pytest.raises(ExperimentError) as error:
        small(**change)
    for part in ("small.toml", key, value, accepted):
        assert part in str(error.value)


def test_what_is_missing_is_named():
    with pytest.raises(ExperimentError, match=r"nothing-here.*agreement"):
        load_experiment("nothing-here")


def test_a_file_is_read_and_a_broken_one_named(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'title = "x"\nworkloads = "generated:4"\nprofiles = "l40s-llama-3.1-8b"\nloads = 1\nsetups = "lpm"\n'
    )
    assert [cell.setup.label for cell in load_experiment(str(path)).cells] == ["lpm"]
    path.write_text("title = ")
    with pytest.raises(ExperimentError, match=r"mine\.toml"):
        load_experiment(str(path))


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_experiment_is_valid(name):
    experiment = load_experiment(name)
    assert experiment.title
    assert experiment.cells
    assert len({cell.key for cell in experiment.cells}) == len(experiment.cells)
