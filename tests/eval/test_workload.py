"""Workloads load whole or not at all, and what is drawn is the same every time."""

import gzip
import json

import numpy as np
import pytest

from eval.workload import WorkloadError, draw, load
from eval.workload.generator import generate
from eval.workload.jsonl import load_jsonl
from eval.workload.latency import draw_tools
from eval.workload.quantiles import Quantiles
from tests.eval.builders import program, turn

GOOD = {"id": "a", "src": "s", "turns": [{"in": 10, "out": 2, "tool": "ls", "tool_s": None}]}


@pytest.mark.parametrize(("name", "programs", "turns"), [("swebench", 350, 14327), ("claude-code", 426, 28896)])
def test_recorded_workloads_are_complete(name, programs, turns):
    loaded = load(name)
    assert len(loaded) == programs
    assert sum(len(p.turns) for p in loaded) == turns


def test_mix_is_both():
    assert len(load("mix")) == 350 + 426


def test_claude_code_has_shared_prefixes_and_reuse():
    loaded = load("claude-code")
    assert all(p.tool_tokens > 0 and p.system_tokens > 0 for p in loaded)
    assert all(t.reuse_tokens is not None for p in loaded for t in p.turns)


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"turns": []}, "turns", "[]"),
        ({"turns": [{"in": 0, "out": 2, "tool": "x", "tool_s": 1}]}, "turns[0].in", "0"),
        ({"turns": [{"in": 5, "out": "2", "tool": "x", "tool_s": 1}]}, "turns[0].out", "'2'"),
        ({"turns": [{"in": 5, "out": 2, "reuse": 6, "tool": "x"}]}, "turns[0].reuse", "6"),
        ({"turns": [{"in": 5, "out": 2, "tool": "", "tool_s": 1}]}, "turns[0].tool", "''"),
        ({"turns": [{"in": 5, "out": 2, "tool": "x", "tool_s": -1}]}, "turns[0].tool_s", "-1"),
        ({"turns": [{"in": 5, "out": 2, "tool": "x", "tools": 1}]}, "turns[0]", "'tools'"),
        ({"id": None}, "id", "None"),
        ({"system_tokens": True}, "system_tokens", "True"),
        ({"extra": 1}, "", "'extra'"),
    ],
)
def test_bad_line_is_named(tmp_path, change, field, value):
    path = tmp_path / "w.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | {"id": "b"} | change) + "\n")
    with pytest.raises(WorkloadError) as caught:
        load_jsonl(path)
    message = str(caught.value)
    assert f"{path}:2" in message
    assert field in message
    assert value in message
    assert "accepted" in message


@pytest.mark.parametrize("text", ["{", "[1]", "", json.dumps(GOOD) + "\n" + json.dumps(GOOD)])
def test_broken_file_loads_nothing(tmp_path, text):
    path = tmp_path / "w.jsonl"
    path.write_text(text)
    with pytest.raises(WorkloadError, match=str(path)):
        load_jsonl(path)


def test_cut_off_gzip_loads_nothing(tmp_path):
    path = tmp_path / "w.jsonl.gz"
    whole = gzip.compress("\n".join(json.dumps(GOOD | {"id": str(i)}) for i in range(200)).encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WorkloadError, match="cannot be read"):
        load_jsonl(path)


@pytest.mark.parametrize("name", ["nothing-here", "generated:0", "generated:x", "generated:"])
def test_unknown_workload_says_what_is_accepted(name):
    with pytest.raises(WorkloadError, match="accepted"):
        load(name)


def test_generated_programs_depend_on_seed_only():
    assert generate(30, 7) == generate(30, 7)
    assert generate(30, 7)[:10] == generate(10, 7)
    assert generate(10, 7) != generate(10, 8)
    assert len(load("generated:12")) == 12


def test_generated_programs_have_the_published_quantiles():
    swe = generate(400, 1, claude_code_share=0)
    claude = generate(400, 1, claude_code_share=1)
    assert np.median([len(p.turns) for p in swe]) == pytest.approx(36, rel=0.1)
    assert np.median([p.turns[-1].in_tokens for p in swe]) == pytest.approx(22_000, rel=0.1)
    assert np.median([t.out_tokens for p in swe for t in p.turns]) == pytest.approx(89, rel=0.25)
    assert np.median([len(p.turns) for p in claude]) == pytest.approx(45, rel=0.15)
    assert np.median([t.in_tokens for p in claude for t in p.turns]) == pytest.approx(105_000, rel=0.2)
    assert np.median([t.out_tokens for p in claude for t in p.turns]) == pytest.approx(216, rel=0.1)


def test_generated_programs_could_have_been_recorded():
    for p in generate(60, 3):
        assert p.turns[-1].tool_s is None
        assert p.turns[0].in_tokens >= p.tool_tokens + p.system_tokens
        for before, after in zip(p.turns, p.turns[1:], strict=False):
            assert before.tool_s >= 0
            assert after.reuse_tokens is None or after.reuse_tokens <= min(before.in_tokens, after.in_tokens)


def test_tool_times_follow_the_published_ones():
    tools, seconds = draw_tools(np.random.default_rng(0), 200_000)
    assert seconds.mean() == pytest.approx(16.8, rel=0.1)
    assert np.percentile(seconds, 50) == pytest.approx(0.3, rel=0.1)
    assert np.percentile(seconds, 90) == pytest.approx(13.6, rel=0.1)
    assert (seconds < 1).mean() == pytest.approx(0.70, abs=0.02)
    assert (seconds > 60).mean() == pytest.approx(0.049, abs=0.005)
    assert tools.count("shell") / len(tools) == pytest.approx(0.76, abs=0.01)


def test_quantiles_meet_their_points():
    known = Quantiles(((0, 1), (0.5, 10), (1, 1000)))
    assert known.at(np.array([0, 0.25, 0.5, 1])) == pytest.approx([1, 10**0.5, 10, 1000])
    with pytest.raises(ValueError, match="rising"):
        Quantiles(((0, 1), (1, 0.5)))


def test_draw_is_seeded_and_without_replacement():
    pool = [program(id=str(i)) for i in range(50)]
    picked = draw(pool, 20, seed=3).programs
    assert picked == draw(pool, 20, seed=3).programs
    assert picked != draw(pool, 20, seed=4).programs
    assert len({p.id for p in picked}) == 20


def test_draw_beyond_the_pool_repeats_under_new_ids():
    ids = [p.id for p in draw([program(id=str(i)) for i in range(3)], 8, seed=0).programs]
    assert len(set(ids)) == 8
    assert sorted(ids[:3]) == ["0", "1", "2"]
    assert all(name.endswith("#2") for name in ids[3:6])


def test_refused_programs_are_counted_once_and_replaced():
    pool = [program(turn(in_tokens=100 * (i + 1)), id=str(i)) for i in range(10)]
    drawn = draw(pool, 12, 0, lambda p: "too_long" if p.largest_context > 510 else None)
    assert len(drawn.programs) == 12
    assert drawn.left_out == {"too_long": 5}
    assert max(p.largest_context for p in drawn.programs) == 510
    with pytest.raises(WorkloadError, match="none of its 10 programs"):
        draw(pool, 1, 0, lambda p: "too_long")


def test_cut_ends_a_program_early():
    long = program(*[turn()] * 5)
    assert len(long.cut(2).turns) == 2
    assert long.cut(9) is long
    assert long.cut(None) is long
