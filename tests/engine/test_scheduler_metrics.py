"""What a scheduler process shows of a real cache. ``test_turn_info_server.py`` looks at a real server's page."""

from prometheus_client import REGISTRY

from mars_sglang.engine.scheduler_metrics import _COUNTED, _GAUGES, SHOW_S, WALK_S, SchedulerMetrics
from tests.engine.conftest import make_cached_programs
from tests.engine.test_turn_queue import prompt

LABELS = {"model_name": "m", "tp_rank": 0}


def shown(name: str, **more) -> float | None:
    return REGISTRY.get_sample_value(f"mars:{name}", {**{name: str(value) for name, value in LABELS.items()}, **more})


def test_counters_show_their_increase_once_a_second_and_gauges_what_is_so():
    p = make_cached_programs("rust", 1)
    now_s = [100.0]
    metrics = SchedulerMetrics(LABELS, p.book, p.cache, now=lambda: now_s[0])
    assert shown("retained_programs") is None  # a rank that shows nothing has no series
    metrics.show()
    assert {shown(name.removeprefix("mars:")) for name, _ in (_COUNTED | _GAUGES).values()} == {0}
    assert {shown("resumed_turns_total", outcome=outcome) for outcome in ("warm", "partial", "cold")} == {0}

    p.end_turn("a", prompt(0, 640), at_s=1.0)
    p.end_turn("b", prompt(0, 320) + prompt(1, 320), at_s=1.0)
    p.book.kept.put("a", p.book.policy.keep(p.cache._context_view("a", ()), 1.0))
    p.book.counters.update({"turns_resumed_warm": 3, "context_tokens_reused": 900, "turns_held_for_kept": 1})
    metrics.show()
    assert shown("retained_programs") == 0
    now_s[0] += SHOW_S
    metrics.show()
    assert (shown("retained_programs"), shown("retained_tokens")) == (2, 0)
    assert (shown("kept_programs"), shown("kept_tokens")) == (2, p.book.kept.ahead_of(None))
    assert (shown("resumed_turns_total", outcome="warm"), shown("reused_tokens_total")) == (3, 900)
    now_s[0] += WALK_S
    p.book.counters["context_tokens_reused"] += 50
    metrics.show()
    assert (shown("retained_tokens"), shown("reused_tokens_total"), shown("held_for_kept_turns_total")) == (960, 950, 1)
