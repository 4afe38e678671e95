"""Figures by hand, tables, files and plots."""

import gzip
import json

import pytest

from eval.replay.record import Sample
from eval.report import tables
from eval.report.figures import spread, summarize, token_error, worst_emulation_error
from eval.report.writer import write
from tests.eval.builders import program_record, run, turn_record

WORKLOAD = {"name": "w", "programs": 4, "arrivals": "all at once"}


def test_spread_by_hand():
    assert spread([]) is None
    figures = spread([1, 2, 3, 4, 5])
    assert figures == {"mean": 3, "p50": 3, "p90": 4.6, "p95": 4.8, "p99": 4.96, "max": 5}


def test_summary_by_hand():
    programs = [
        program_record("a", arrival_s=0, end_s=10),
        program_record("b", arrival_s=5, end_s=25),
        program_record("c", failure="http_400"),
        program_record("d", failure="interrupted"),
    ]
    programs[0].turns = [
        turn_record(sent_s=1, first_token_s=2, last_token_s=4, prompt_tokens=100, cached_tokens=0, recomputed_tokens=0,
                    output_tokens=10, tool="ls", tool_wait_s=1.0, tool_s=3.0),
        turn_record(sent_s=5, first_token_s=8, last_token_s=10, prompt_tokens=200, cached_tokens=50,
                    recomputed_tokens=55, output_tokens=20),
    ]  # fmt: skip
    programs[1].turns = [turn_record(sent_s=5, first_token_s=6, last_token_s=25, prompt_tokens=300, output_tokens=30)]
    programs[2].turns = programs[3].turns = []
    figures = summarize(run("lpm+mars", programs, retractions=2, left_out={"too_long": 3}, result={"tool_busy_s": 5.0}))
    assert (figures["policy"], figures["admission"]) == ("lpm", "mars")
    assert [figures[name] for name in ("programs", "completed", "failed", "interrupted")] == [4, 2, 1, 1]
    assert figures["failures"] == {"http_400": 1}
    assert figures["makespan_s"]["mean"] == 15
    assert figures["ttft_s"]["mean"] == pytest.approx((1 + 3 + 1) / 3, abs=1e-4)
    assert figures["turn_latency_s"]["max"] == 20
    assert figures["throughput"] == {"programs_per_hour": 288, "output_tokens_per_s": 2.4}
    assert [figures[name] for name in ("prompt_tokens", "cached_tokens", "recomputed_tokens")] == [600, 50, 55]
    assert figures["tools"]["calls"] == 1
    assert figures["tools"]["wait_s"]["mean"] == 1
    assert figures["tools"]["slot_use"] == 0.05
    assert (figures["retractions"], figures["left_out"]) == (2, {"too_long": 3})


def test_a_run_without_answers_has_no_figures():
    figures = summarize(run(programs=[program_record(failure="timeout", turns=[])]))
    assert figures["makespan_s"] is figures["ttft_s"] is figures["token_error"] is None
    assert figures["throughput"]["programs_per_hour"] is None


def test_unreported_cache_is_unknown_not_zero():
    record = program_record(turns=[turn_record(cached_tokens=None, recomputed_tokens=None)])
    assert summarize(run(programs=[record]))["cached_tokens"] is None


def test_token_error_by_hand():
    turns = [turn_record(traced_prompt_tokens=100, prompt_tokens=p) for p in (100, 101, 99, 110)]
    assert token_error(turns) == {"p50": 0.01, "p99": pytest.approx(0.0973), "share_within_2pct": 0.75}


def test_ratios_are_against_fcfs_and_the_best_native():
    runs = [
        summarize(run("fcfs", [program_record(end_s=40)])),
        summarize(run("lpm", [program_record(end_s=20)])),
        summarize(run("fcfs+mars", [program_record(end_s=5)])),
        summarize(run("mars", [program_record(end_s=10)])),
    ]
    assert tables.best_native(runs)["label"] == "lpm"
    head, rows = tables.main_table(runs)
    assert head[-2:] == ["vs fcfs", "vs best native (lpm)"]
    assert [row[-2:] for row in rows] == [
        ["1.00x", "0.50x"],
        ["2.00x", "1.00x"],
        ["8.00x", "4.00x"],
        ["4.00x", "2.00x"],
    ]


@pytest.mark.parametrize(("error", "said"), [(0.02, False), (0.11, True)])
def test_a_slow_machine_is_told(error, said):
    reported = {"ok": True, "decode": {"error_median": error, "error_p90": 0.9}, "prefill": {"error_median": 0.01}}
    figures = summarize(run(emulation_error=reported))
    assert worst_emulation_error(figures["emulation_error"]) == error
    assert any("too slow" in line for line in tables.remarks([figures])) is said


def test_remarks_name_failures_and_interruption():
    programs = [program_record("a"), program_record("b", failure="http_500")]
    lines = "\n".join(
        tables.remarks([summarize(run(programs=programs, left_out={"too_long": 2}, result={"partial": True}))])
    )
    for part in ("1 of 2 programs failed (1 http_500)", "2 too_long", "interrupted"):
        assert part in lines


def test_everything_is_written(tmp_path):
    samples = [Sample(t, 100 * t, t / 10, t, 1, 2, 1, 0) for t in range(8)]
    runs = [
        run(name, [program_record(end_s=e) for e in (9, 12)], result={"samples": samples}) for name in ("fcfs", "mars")
    ]
    write(tmp_path, runs, WORKLOAD, "l40s")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary) == {"workload", "profile", "versions", "runs"}
    assert [r["policy"] for r in summary["runs"]] == ["fcfs", "mars"]
    assert summary["versions"]["sglang"]
    with gzip.open(tmp_path / "turns-mars.jsonl.gz", "rt") as lines:
        assert [json.loads(line)["last_token_s"] for line in lines] == [9, 12]
    for plot in ("makespan.png", "timeline.png"):
        assert (tmp_path / plot).read_bytes().startswith(b"\x89PNG")
    assert "| mars | 2/2 | 10.5 |" in (tmp_path / "report.md").read_text()


def test_a_run_with_nothing_in_it_can_be_written(tmp_path):
    write(tmp_path, [run(programs=[program_record(failure="disconnect", turns=[])])], WORKLOAD, None)
    assert "| fcfs | 0/1 | - |" in (tmp_path / "report.md").read_text()
