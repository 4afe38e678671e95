"""mini-swe-agent trajectories become programs."""

import json

import pytest

from eval.workload import WorkloadError
from eval.workload.program import Turn
from eval.workload.trajectory import load_trajectories


def answer(command, created=None, usage=(1000, 50), **fields):
    extra = {"response": {"created": created, "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]}}}
    return {"role": "assistant", "content": f"Let me see.\n```bash\n{command}\n```", "extra": extra} | fields


def save(folder, name="t", **raw):
    (folder / name).mkdir()
    (folder / name / f"{name}.traj.json").write_text(json.dumps(raw))


def test_usage_and_creation_times(tmp_path):
    user = {"role": "user", "content": "x"}
    save(
        tmp_path, messages=[user, answer("cd /testbed && grep -rn foo", 100), user, answer("ls", 110, (1200, 7)), user]
    )
    (loaded,) = load_trajectories(tmp_path, seed=0)
    assert loaded.id == "t"
    assert loaded.turns == (
        Turn(1000, None, 50, "grep", pytest.approx(10 - 2.26 - 0.0116 * 50)),
        Turn(1200, None, 7, "ls", None),
    )


def test_own_time_stamps_are_better(tmp_path):
    messages = [
        {"role": "user", "content": "x"},
        answer("A=1 /usr/bin/python -m pytest", 100, timestamp=105.0),
        {"role": "user", "content": "x", "timestamp": 108.5},
        answer("ls", 110),
    ]
    save(tmp_path, history=messages)
    (loaded,) = load_trajectories(tmp_path, seed=0)
    assert (loaded.turns[0].tool, loaded.turns[0].tool_s) == ("python", 3.5)


def test_without_usage_tokens_are_estimated_and_times_drawn(tmp_path):
    messages = [{"role": "system", "content": "s" * 400}, {"role": "assistant", "content": "a" * 40},
                {"role": "user", "content": "u" * 360}, {"role": "assistant", "content": "b" * 80}]  # fmt: skip
    save(tmp_path, messages=messages)
    (loaded,) = load_trajectories(tmp_path, seed=1)
    assert [(t.in_tokens, t.out_tokens, t.tool) for t in loaded.turns] == [(100, 10, "none"), (200, 20, "none")]
    assert loaded.turns[0].tool_s > 0
    assert load_trajectories(tmp_path, seed=1) == [loaded]


def test_tool_calls_of_version_2(tmp_path):
    message = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "bash"}}],
               "extra": {"actions": [{"command": "find . -name x"}]}}  # fmt: skip
    save(tmp_path, messages=[{"role": "user", "content": "abcd"}, message])
    assert load_trajectories(tmp_path, 0)[0].turns[0].tool == "find"


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        ({"messages": "none"}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}]}, "no assistant"),
        ({"messages": [answer("ls", usage=(-1, 5))]}, "prompt_tokens: -1"),
    ],
)
def test_bad_trajectory_is_named_and_nothing_loaded(tmp_path, raw, match):
    save(tmp_path, "good", messages=[answer("ls")])
    save(tmp_path, "sad", **raw)
    with pytest.raises(WorkloadError, match=match) as caught:
        load_trajectories(tmp_path, 0)
    assert "sad.traj.json" in str(caught.value)


def test_empty_directory_is_refused(tmp_path):
    with pytest.raises(WorkloadError, match="no trajectory"):
        load_trajectories(tmp_path, 0)
