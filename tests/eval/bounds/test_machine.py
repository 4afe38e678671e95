"""One machine: no schedule has the k-th job done sooner than the bound says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.bounds.machine import earliest_completions, shortest_first

jobs = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 10), st.integers(0, 30)), min_size=1, max_size=8)


def served(release, size, ranks):
    """Completion of each job on one machine that always serves the released job of the lowest rank."""
    left = dict(enumerate(size))
    done, now = {}, 0.0
    while left:
        ready = [i for i in left if release[i] <= now]
        if not ready:
            now = min(release[i] for i in left)
            continue
        job = min(ready, key=lambda i: ranks[i])
        until = min([release[i] for i in left if release[i] > now], default=np.inf)
        step = min(left[job], until - now)
        now += step
        left[job] -= step
        if left[job] <= 0:
            done[job] = now
            del left[job]
    return np.array([done[i] for i in range(len(size))])


def test_a_short_job_that_comes_late_is_served_before_the_rest_of_a_long_one():
    # The long one runs [0, 2) and [3, 11), the short one [2, 3).
    assert shortest_first(np.array([0.0, 2.0]), np.array([10.0, 1.0])) == pytest.approx([3.0, 11.0])


def test_a_gap_between_jobs_is_idle():
    assert shortest_first(np.array([5.0, 0.0]), np.array([1.0, 2.0])) == pytest.approx([2.0, 6.0])


def test_a_job_that_cannot_be_done_early_gives_its_place_to_another():
    # Alone the short job would be the first at 1; it takes until 50 for other reasons, so the first is the other at 10.
    completions = earliest_completions(np.zeros(2), np.array([1.0, 10.0]), np.array([50.0, 0.0]))
    assert completions == pytest.approx([10.0, 50.0])


@given(jobs=jobs, ranks=st.permutations(range(8)))
def test_no_schedule_beats_shortest_first_at_any_place(jobs, ranks):
    release, size, _ = (np.array(column, dtype=float) for column in zip(*jobs, strict=True))
    assert np.all(np.sort(served(release, size, ranks)) >= shortest_first(release, size) - 1e-9)


@given(jobs=jobs, ranks=st.permutations(range(8)))
def test_no_schedule_with_earliest_times_beats_the_bound_with_them(jobs, ranks):
    release, size, earliest = (np.array(column, dtype=float) for column in zip(*jobs, strict=True))
    completions = np.sort(np.maximum(served(release, size, ranks), earliest))
    bound = earliest_completions(release, size, earliest)
    assert np.all(completions >= bound - 1e-9)
    assert np.all(bound >= shortest_first(release, size) - 1e-9)
    assert np.all(bound >= np.sort(earliest) - 1e-9)
