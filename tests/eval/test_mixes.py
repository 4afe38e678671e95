"""The paper's mixes have the published volume, and are the same every time."""

import numpy as np
import pytest

from eval.workload import WorkloadError, load
from eval.workload.mixes import CONTEXT_TOKENS, MIXES, SMALLEST_MIX, VOLUME_TOKENS, mix, target_tokens, volume_tokens
from tests.eval.builders import program, turn

PUBLISHED = {"ilr-1": 125_000, "ilr-2": 167_000, "ilr-3": 220_000, "ilr-4": 263_000, "s-ilr": 193_750}


@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize(("n", "seed"), [(SMALLEST_MIX, 0), (150, 1), (400, 2)])
def test_the_published_mean_volume_is_met(name, n, seed):
    programs = load(f"{name}:{n}", seed)
    assert len(programs) == n
    assert np.mean([volume_tokens(p) for p in programs]) == pytest.approx(PUBLISHED[name], rel=0.02)


@pytest.mark.parametrize("name", MIXES)
def test_programs_are_agents_with_ids_of_their_own_and_contexts_that_fit(name):
    programs = load(name)
    assert len({p.id for p in programs}) == len(programs) == 400
    assert all(len(p.turns) > 1 and p.largest_context <= CONTEXT_TOKENS for p in programs)


def test_a_heavier_mix_has_more_programs_that_bring_a_repository():
    starts = [np.mean([p.turns[0].in_tokens > 6000 for p in load(f"{name}:200")]) for name in VOLUME_TOKENS]
    assert starts == sorted(starts)
    assert 0.05 < starts[0] < 0.25 < starts[-1] < 0.75


def test_the_same_seed_gives_the_same_programs_and_another_seed_others():
    assert load("ilr-3:60", 5) == load("ilr-3:60", 5)
    assert {p.id for p in load("ilr-3:60", 5)} != {p.id for p in load("ilr-3:60", 6)}


def test_generated_programs_follow_where_the_recorded_do_not_suffice():
    recorded = load("ilr-4", 0)
    assert not any(p.id.startswith("generated") for p in recorded)
    programs = load("ilr-4:900", 0)
    assert sum(p.id.startswith("generated") for p in programs) > 100
    assert len({p.id for p in programs}) == 900
    assert np.mean([volume_tokens(p) for p in programs]) == pytest.approx(PUBLISHED["ilr-4"], rel=0.02)


def test_volume_is_the_sum_of_the_prompts():
    assert volume_tokens(program(turn(100, 10), turn(150, 5))) == 250
    assert target_tokens("s-ilr") == 193_750


@pytest.mark.parametrize("name", ["ilr-1:0", "ilr-2:x", "s-ilr:"])
def test_a_count_that_is_none_is_named(name):
    with pytest.raises(WorkloadError, match=f"'{name}'; accepted: {name.partition(':')[0]}:N"):
        load(name)


def test_an_unknown_mix_is_named():
    with pytest.raises(WorkloadError, match="ilr-4, s-ilr"):
        load("ilr-5")
    with pytest.raises(ValueError, match="'ilr-5'; accepted: ilr-1"):
        mix("ilr-5", 10, 0, load)
    with pytest.raises(ValueError, match="n: 0"):
        mix("ilr-1", 0, 0, load)
