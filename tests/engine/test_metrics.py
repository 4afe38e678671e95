"""What a scrape of ``/metrics`` finds, in a process of its own: prometheus_client reads its folder at its import."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("sglang")

from mars_sglang.engine.metrics import _EXECUTOR, _WINDOW, DECISIONS, MAX_LABELLED, OTHERS, REASONS, STATUSES
from mars_sglang.engine.scheduler_metrics import _COUNTED, _GAUGES
from mars_sglang.stream.events import AdmissionWindow

DOCS = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()

BEGIN = """
import json, os
from mars_sglang.engine.metrics import ServerMetrics
from mars_sglang.stream.events import AdmissionWindow, ExecutorLoad
from mars_sglang.stream.snapshot import ExecutorState

def executor(name, stale=False, **load):
    return ExecutorState(load=ExecutorLoad(executor=name, **load), stale=stale)

metrics = ServerMetrics(enabled=True)
"""
# As SGLang's /metrics reads them: from the files of all processes, not from this one's memory.
END = """
from prometheus_client import CollectorRegistry, multiprocess
registry = CollectorRegistry()
multiprocess.MultiProcessCollector(registry)
samples = [sample for metric in registry.collect() for sample in metric.samples]
print(json.dumps([[sample.name, sample.labels, sample.value] for sample in samples]))
"""


@pytest.fixture
def scraped(tmp_path):
    """What a scrape finds after this code: value by name, or by name and the value of its label."""

    def run(code: str) -> dict:
        ended = subprocess.run(
            [sys.executable, "-c", BEGIN + code + END],
            env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ended.returncode == 0, ended.stderr
        samples = json.loads(ended.stdout.splitlines()[-1])
        return {(name, *labels.values()) if labels else name: value for name, labels, value in samples}

    return run


def test_counters_begin_at_zero_and_gauges_with_what_was_said(scraped):
    found = scraped("")
    assert found[("mars:admissions_total", "resumed")] == 0
    assert [found[("mars:refusals_total", str(status))] for status in STATUSES] == [0, 0]
    assert [found[("mars:let_go_turns_total", reason)] for reason in REASONS] == [0, 0, 0]
    assert found["mars:admission_wait_seconds_count"] == 0
    # 0 here would be an alarm about a control process that nobody asked for.
    assert "mars:control_connected" not in found


def test_each_decision_refusal_and_turn_let_go_is_counted_under_its_label(scraped):
    found = scraped("""
metrics.admitted(0.3)
metrics.admitted(7.0)
metrics.admitted(0.05, resumed=True)
metrics.paused()
metrics.released()
metrics.refused(429)
metrics.refused(503)
metrics.refused(503)
metrics.let_go("away", 3)
metrics.let_go("slow")
metrics.answered(0.002)
""")
    counted = {decision: found[("mars:admissions_total", decision)] for decision in DECISIONS}
    assert counted == {"admitted": 2, "resumed": 1, "paused": 1, "released": 1}
    assert found[("mars:refusals_total", "429")] == 1 and found[("mars:refusals_total", "503")] == 2
    assert found[("mars:let_go_turns_total", "away")] == 3 and found[("mars:let_go_turns_total", "slow")] == 1
    assert found["mars:admission_wait_seconds_count"] == 3
    assert found["mars:admission_wait_seconds_sum"] == pytest.approx(7.35)
    # Cumulative: 0.05 is within 0.1 s, 0.3 within 0.5 s, 7 within 10 s.
    within = [found[("mars:admission_wait_seconds_bucket", bound)] for bound in ("0.01", "0.1", "0.5", "5.0", "10.0")]
    assert within == [0, 1, 2, 2, 3]
    assert found[("mars:ticket_answer_seconds_bucket", "0.001")] == 0
    assert found[("mars:ticket_answer_seconds_bucket", "0.0025")] == 1


def test_the_gauges_are_the_last_window_without_a_label_for_the_process(scraped):
    found = scraped("""
metrics.window(AdmissionWindow(admitted=9, waiting=9, paused=9))
metrics.window(AdmissionWindow(
    admitted=3, waiting=2, paused=1, footprint_tokens=900, anonymous_tokens=80, capacity_tokens=1000, host_tokens=4000
))
metrics.known(17)
metrics.connected(True)
""")
    gauges = {name: value for name, value in found.items() if isinstance(name, str) and "seconds" not in name}
    assert gauges == {
        "mars:admitted_programs": 3,
        "mars:waiting_programs": 2,
        "mars:paused_programs": 1,
        "mars:footprint_tokens": 900,
        "mars:anonymous_tokens": 80,
        "mars:capacity_tokens": 1000,
        "mars:host_tokens": 4000,
        "mars:known_programs": 17,
        "mars:control_connected": 1,
    }


def test_an_executor_that_is_gone_is_stale_and_its_calls_are_no_longer_counted(scraped):
    found = scraped("""
metrics.executors([executor("a", slots=4, active=3, queued=2, wait_s=1.5), executor("b", active=1)])
metrics.executors([executor("a", stale=True, slots=4, active=3, queued=2, wait_s=1.5)])
""")
    shown = {name: [found[(gauge, name)] for gauge, _ in _EXECUTOR.values()] for name in ("a", "b")}
    assert shown == {"a": [4, 3, 2, 1.5, 1], "b": [0, 0, 0, 0, 1]}


def test_executors_beyond_the_bound_share_a_label(scraped):
    found = scraped(f"""
one = dict(slots=2, active=1, queued=3, wait_s=0.5)
for _ in range(2):
    metrics.executors([executor(f"host-{{i}}", **one, stale=i == {MAX_LABELLED}) for i in range({MAX_LABELLED} + 3)])
""")
    names = {name[1] for name in found if name[0] == "mars:executor_slots"}
    assert len(names) == MAX_LABELLED + 1 and OTHERS in names
    assert [found[(gauge, OTHERS)] for gauge, _ in _EXECUTOR.values()] == [6, 3, 9, 0.5, 1]


def test_a_second_server_of_the_process_goes_on_with_the_same_series(scraped):
    found = scraped("""
metrics.refused(429)
ServerMetrics(enabled=True).refused(429)
""")
    assert found[("mars:refusals_total", "429")] == 2


def test_metrics_that_are_off_do_not_import_the_client():
    code = """
import sys
from mars_sglang.engine.metrics import ServerMetrics
from mars_sglang.stream.events import AdmissionWindow
metrics = ServerMetrics(enabled=False)
metrics.window(AdmissionWindow()), metrics.known(1), metrics.connected(True), metrics.executors([])
metrics.admitted(1.0), metrics.paused(), metrics.released(), metrics.refused(429), metrics.let_go("away", 2)
metrics.answered(0.1)
assert "prometheus_client" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_every_number_of_a_window_is_a_gauge():
    numbers = {field.name for field in msgspec.structs.fields(AdmissionWindow) if field.type is int}
    assert numbers - {"source_seq"} == set(_WINDOW)


def test_the_docs_have_a_row_for_every_series_and_no_other(scraped):
    found = scraped("""
metrics.window(AdmissionWindow())
metrics.known(0)
metrics.connected(True)
metrics.executors([executor("a")])
""")
    names = {name if isinstance(name, str) else name[0] for name in found}
    for histogram in ("mars:admission_wait_seconds", "mars:ticket_answer_seconds"):
        names = {name for name in names if not name.startswith(histogram)} | {histogram}
    names |= {name for name, _ in (_COUNTED | _GAUGES).values()} | {"mars:resumed_turns_total"}
    table, rest = DOCS.split("## What to alert on")
    rows = re.findall(r"^\| `(mars:\w+)", table, re.MULTILINE)
    assert len(rows) == len(set(rows)) and set(rows) == names
    assert {name.removesuffix("_bucket") for name in re.findall(r"mars:\w+", rest)} <= names
