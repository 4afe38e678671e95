"""Small runs of the experiment. What the gate has to reach, not the figures of the docs."""

import numpy as np
import pytest

from eval import fairness
from eval.fairness import GATE, NOT, QUEUE, Case, Neighbours, run

NEIGHBOURS = Neighbours("swebench", "h200-qwen3-coder-30b", 6, 0.02)
"""Six programs of the quiet tenant, at a tenth to a third of what the machine completes."""
FLOOD = 15.0


def seen(fair, times, admission="footprint", turn="fcfs"):
    return run(NEIGHBOURS, Case(turn, admission, fair, times, 0))


@pytest.fixture(scope="module")
def alone():
    return seen(NOT, 0)


def test_alone_nothing_is_held_and_being_told_apart_changes_nothing(alone):
    assert set(alone.held_s) == {0.0} and alone.loud_per_hour == 0
    assert seen(GATE, 0) == alone


def test_beside_a_flood_first_come_first_served_holds_the_quiet_tenant_and_shares_do_not():
    assert np.mean(seen(NOT, FLOOD).held_s) > 60
    assert np.mean(seen(GATE, FLOOD).held_s) < 2


def test_more_of_the_flood_hardly_moves_the_quiet_tenant():
    some, more = (max(seen(GATE, times).makespans_s) for times in (FLOOD, 3 * FLOOD))
    assert more < 1.1 * some


def test_the_flood_has_what_the_quiet_tenant_leaves():
    assert seen(GATE, FLOOD).loud_per_hour > 0.6 * seen(NOT, FLOOD).loud_per_hour


def test_a_queue_that_knows_the_tenants_is_run_too():
    outcome = seen(QUEUE, FLOOD, turn="mars")
    assert len(outcome.makespans_s) == NEIGHBOURS.programs and np.mean(outcome.held_s) < 2


def test_the_command_prints_a_row_for_each_way_of_telling_the_tenants_apart(capsys):
    arguments = ["--programs", "2", "--loads", "0,2", "--seeds", "0", "--policies", "mars+window:2,fcfs+off"]
    assert fairness.main(arguments) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert rows[0][2:4] == ["alone", "beside 2x"]
    assert [(row[0], row[1]) for row in rows[2:]] == [
        ("| mars + window:2", "no"),
        ("| mars + window:2", "gate"),
        ("| mars + window:2", "gate and queue"),
        ("| fcfs + off", "no"),
    ]


def test_a_workload_that_is_not_there_is_an_error(capsys):
    assert fairness.main(["--workload", "none"]) == 1
    assert "none" in capsys.readouterr().err
