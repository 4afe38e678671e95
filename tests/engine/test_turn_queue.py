"""The waiting queue's order on SGLang's real requests and radix cache."""

from mars_sglang.engine.turn_queue import MarsSchedulePolicy
from tests.engine.conftest import make_cached_programs

CAPACITY = 4096


def arranged_queue(p, waiting, now_s: float) -> list[str]:
    p.book.now_s = now_s
    MarsSchedulePolicy(p.book, "fcfs", p.cache, False, False, False).calc_priority(waiting)
    return [req.rid for req in waiting]


def prompt(source: int, tokens: int) -> list[int]:
    return [10_000 * (source + 1) + i for i in range(tokens)]


def test_a_turn_that_would_evict_a_kept_context_goes_behind_one_that_fits_until_its_time_is_over(tree_core):
    p = make_cached_programs(tree_core, 1, CAPACITY)
    p.end_turn("agent", prompt(0, 2_000), at_s=0.0)
    p.book.kept.put("agent", p.book.policy.keep(p.cache._context_view("agent", ()), 0.0)._replace(until_s=110.0))
    # Of a program that came much later, and so ranked behind; a request that came later still fits beside.
    big, small = p.asks("cold", prompt(1, 3_000), 100.0), p.asks(None, prompt(2, 500), 101.0)
    p.book.busy_s = 102.0
    assert arranged_queue(p, [big, small], 102.0) == [small.rid, big.rid]
    assert p.book.arranged.withheld_from(big.rid) == 2_000
    # The policy finds it dormant by now, and does not keep it again.
    p.book.busy_s = 110.0
    order = arranged_queue(p, [big, small], 110.0)
    assert len(p.book.kept) == 0 and p.book.arranged.withheld_from(big.rid) == 0
    assert order == [req.rid for req in sorted((big, small), key=lambda req: p.book.policy.rank(req.mars.view, 110.0))]


def test_an_idle_engine_lifts_what_it_could_have_computed_again(tree_core):
    p = make_cached_programs(tree_core, 1, CAPACITY)
    p.end_turn("agent", prompt(0, 2_000), at_s=0.0)
    p.book.kept.put("agent", p.book.policy.keep(p.cache._context_view("agent", ()), 0.0)._replace(until_s=110.0))
    again_s = p.book.prefill.seconds(2_000, 0)
    big = p.asks("cold", prompt(1, 3_000), 100.0)
    p.book.busy_s = 100.0
    arranged_queue(p, [big], 100.0 + 0.9 * again_s)
    assert p.book.arranged.withheld_from(big.rid) == 2_000
    arranged_queue(p, [big], 100.0 + 1.1 * again_s)
    assert p.book.arranged.withheld_from(big.rid) == 0


def test_a_context_is_kept_with_the_outer_priority_of_its_last_turn(tree_core):
    p = make_cached_programs(tree_core, 1, CAPACITY)
    for name, priority in (("urgent", -1), ("plain", 0)):
        req = p.asks(name, prompt(0, 50), 0.0)
        req.mars.priority = priority
        req.output_ids.append(7)
        p.book.turn_ended(req)
    views = {}
    for i, name in enumerate(("urgent", "plain")):
        p.cache._tail_of[name], p.cache._tokens_of[name] = i, 1_000
        views[name] = p.cache._context_view(name, ())
    assert [view.priority for view in views.values()] == [-1, 0]
    kept = {name: p.book.policy.keep(view, 0.0) for name, view in views.items()}
    # However much work it leaves.
    assert kept["urgent"].rank[0] == -1 and kept["urgent"].rank < kept["plain"].rank
    assert p.book.policy.order_reclaim(list(views.values()), 0.0)[0] == 1
