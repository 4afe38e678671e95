import pytest

from eval.simulator.native import MATCHED_AT_MOST, QueueFacts, native_policy
from eval.simulator.waiting import WaitingQueue
from mars_sglang.core.views import TurnView
from tests.eval.simulator.builders import cache, put, request, text


def turn(id, uncached, context=1000, arrived_s=0.0):
    return TurnView(id, id, uncached, context, arrived_s)


def order(policy, *turns):
    return [turns[i].turn_id for i in policy.order_turns(turns, 0.0)]


def test_fcfs_leaves_the_queue_as_it_is():
    assert order(native_policy("fcfs"), turn("b", 1, arrived_s=5.0), turn("a", 2)) == ["b", "a"]


def test_lpm_takes_the_longest_cached_prefix_and_keeps_ties_in_place():
    policy = native_policy("lpm")
    assert order(policy, turn("b", 900), turn("a", 900), turn("c", 500), turn("d", 700)) == ["c", "d", "b", "a"]


def test_shortest_prefill_first_takes_the_least_left_to_do():
    policy = native_policy("shortest-prefill-first")
    assert order(policy, turn("b", 900, 900), turn("a", 901, 10**6), turn("c", 900, arrived_s=-1.0)) == ["c", "b", "a"]


def test_hrrn_weighs_the_wait_against_the_work():
    policy = native_policy("hrrn")
    policy.facts = QueueFacts(waited_tokens={"a": 1000, "b": 400, "c": 1000})
    assert order(policy, turn("a", 1000), turn("b", 100), turn("c", 1000)) == ["b", "a", "c"]


@pytest.mark.parametrize("name", ["lpm", "hrrn", "shortest-prefill-first"])
def test_a_turn_whose_prefix_another_computes_waits_for_it(name):
    policy = native_policy(name)
    policy.facts = QueueFacts(deferred={"a"}, waited_tokens={"a": 10, "b": 0})
    assert order(policy, turn("a", 1), turn("b", 900)) == ["b", "a"]


def test_lpm_and_hrrn_give_up_on_a_long_queue():
    for name, gives_up in (("lpm", True), ("hrrn", True), ("shortest-prefill-first", False), ("fcfs", True)):
        assert native_policy(name).looks_up(MATCHED_AT_MOST + 1) is not gives_up
        assert native_policy(name).looks_up(MATCHED_AT_MOST) is (name != "fcfs")


def test_an_order_that_is_not_modelled_is_refused():
    with pytest.raises(ValueError, match=r"'lof'.*accepted: fcfs, lpm"):
        native_policy("lof")


def test_of_cold_turns_with_one_prefix_the_first_goes():
    tree = cache()
    queue = WaitingQueue(tree, native_policy("lpm"))
    queue.turns = [
        request(tree, id, content=text(id, 100, shared=shared)) for id, shared in (("a", 40), ("b", 40), ("c", 20))
    ]
    queue.sort(0.0, 0)
    assert [r.program for r in queue.turns] == ["a", "c", "b"]


def test_turns_whose_prefix_is_cached_are_not_deferred():
    tree = cache()
    put(tree, text("z", 100, shared=40))
    queue = WaitingQueue(tree, native_policy("lpm"))
    queue.turns = [request(tree, id, content=text(id, 100, shared=40)) for id in "ab"]
    queue.sort(0.0, 0)
    assert [r.matched_tokens for r in queue.turns] == [40, 40]
    assert [r.program for r in queue.turns] == ["a", "b"]


def test_fcfs_marks_what_waits_as_used_every_32_passes():
    tree = cache()
    waits = put(tree, text("a", 60))
    other = put(tree, text("b", 60))
    queue = WaitingQueue(tree, native_policy("fcfs"))
    queue.turns = [request(tree, "a", prompt=90, content=text("a", 100))]
    queue.sort(0.0, 0)
    assert waits.used > other.used
    tree.match(text("b", 60), 60, other)
    for _ in range(31):
        queue.sort(0.0, 0)
    assert waits.used < other.used
    queue.sort(0.0, 0)
    assert waits.used > other.used
