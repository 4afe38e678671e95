import pytest

from eval.simulator.host import HostTier
from eval.simulator.prefill import PrefillAdder, SkippingAdder, Verdict, chunk_limit
from eval.simulator.waiting import look_up
from mars_sglang.core.kept import Arranged
from mars_sglang.core.policy import BaseTurnPolicy
from mars_sglang.core.prefill_pass import PASSING_TOKENS
from tests.eval.simulator.builders import cache, put, request, text


def adder(tree, running=(), chunk=100, one_chunk=False):
    return PrefillAdder(tree, running, chunk, one_chunk, tree.evict)


def offer(adder, tree, turn, has_chunked=False):
    look_up(tree, turn, turn.context - 1)
    return adder.add(turn, has_chunked)


def test_a_turn_that_fits_is_added_and_its_answer_reserved():
    tree = cache()
    pass_ = adder(tree)
    turn = request(tree, prompt=50, out=10)
    assert offer(pass_, tree, turn) is Verdict.CONTINUE
    assert (pass_.added, turn.scheduled_upto, pass_.chunk_left) == ([turn], 50, 50)
    assert pass_.room == 1000 - 50 - 1 - 10


def test_room_counts_what_running_turns_may_still_write():
    tree = cache()
    running = request(tree, "r", out=900)
    assert offer(adder(tree, [running]), tree, request(tree, prompt=90, out=9)) is Verdict.NO_TOKEN
    assert offer(adder(tree, [running]), tree, request(tree, prompt=80, out=9)) is Verdict.CONTINUE


def test_of_a_very_long_answer_only_so_much_is_reserved():
    tree = cache(capacity=6000)
    pass_ = adder(tree)
    offer(pass_, tree, request(tree, out=50000))
    assert pass_.room == 6000 - 50 - 1 - 4096


def test_the_prefix_of_a_turn_cannot_be_evicted_for_it():
    tree = cache(capacity=200)
    put(tree, text("a", 100))
    turn = request(tree, prompt=150, out=50, content=text("a", 200))
    assert offer(adder(tree), tree, turn) is Verdict.NO_TOKEN
    assert tree.locked == 0


def test_a_turn_longer_than_the_step_gets_a_chunk_of_it():
    tree = cache()
    pass_ = adder(tree)
    turn = request(tree, prompt=250)
    assert offer(pass_, tree, turn) is Verdict.OTHER
    assert (pass_.new_chunked, turn.scheduled_upto) == (turn, 100)
    assert pass_.room == 1000 - 100 - 1


def test_where_chunks_are_shared_a_second_chunk_is_refused():
    tree = cache()
    first, second = adder(tree, one_chunk=True), adder(tree)
    assert offer(first, tree, request(tree, prompt=250), has_chunked=True) is Verdict.OTHER
    assert not first.added
    assert offer(second, tree, request(tree, prompt=250), has_chunked=True) is Verdict.OTHER
    assert second.added


def test_the_unfinished_turn_goes_on_by_the_limit_it_is_given():
    tree = cache()
    turn = request(tree, prompt=250)
    assert adder(tree).go_on(turn, None) and turn.scheduled_upto == 100
    assert adder(tree).go_on(turn, 30) and turn.scheduled_upto == 30
    turn.prefix = 200
    assert not adder(tree).go_on(turn, None) and turn.scheduled_upto == 250


def test_shorter_turns_get_room_beside_an_unfinished_one():
    tree = cache()
    long = request(tree, prompt=500)
    shorts = [request(tree, id, prompt=prompt) for id, prompt in (("b", 30), ("c", 40), ("d", 60))]
    assert chunk_limit(long, shorts, 100) == 30
    assert chunk_limit(long, shorts[2:], 50) is None
    long.prefix = 480
    assert chunk_limit(long, shorts, 100) is None


@pytest.mark.parametrize(("host_only", "loaded"), [(40, 40), (9, 0)])
def test_what_only_the_host_has_is_loaded_if_it_is_worth_it(host_only, loaded):
    tree = cache(host=HostTier(1000))
    head = put(tree, text("a", 50))
    put(tree, text("a", 50 + host_only), hint=head)
    tree.evict(1)
    turn = request(tree, prompt=120, content=text("a", 130))
    pass_ = PrefillAdder(tree, [], 100, False, tree.evict)
    assert offer(pass_, tree, turn) is Verdict.CONTINUE
    assert (pass_.loaded_tokens, turn.prefix, turn.cached_tokens) == (loaded, 50 + loaded, 50 + loaded)
    assert tree.free == 1000 - 50 - loaded


class Patient(BaseTurnPolicy):
    cuts_prefills = True

    def __init__(self, passable=True, quantum=None):
        self.passable, self.quantum = passable, quantum

    def may_be_passed(self, turn, now_s):
        return self.passable

    def quantum_tokens(self, turn, now_s):
        return self.quantum


@pytest.mark.parametrize(("passable", "verdict"), [(True, Verdict.CONTINUE), (False, Verdict.NO_TOKEN)])
def test_our_policies_say_whether_a_turn_that_does_not_fit_may_be_passed(passable, verdict):
    tree = cache()
    pass_ = SkippingAdder(tree, [], 100, True, tree.evict, policy=Patient(passable), now_s=0.0)
    assert offer(pass_, tree, request(tree, prompt=2000)) is verdict
    assert pass_.short_of_memory and not pass_.added


def test_only_short_turns_go_ahead_of_one_that_waits_for_memory():
    tree = cache(capacity=PASSING_TOKENS + 500)
    pass_ = SkippingAdder(tree, [], 10 * PASSING_TOKENS, True, tree.evict, policy=Patient(), now_s=0.0)
    big, long, short = (
        request(tree, name, prompt=tokens)
        for name, tokens in (("a", 2 * PASSING_TOKENS), ("b", PASSING_TOKENS + 1), ("c", PASSING_TOKENS))
    )
    for turn in (big, long, short):
        offer(pass_, tree, turn)
    assert pass_.added == [short]


def test_a_quantum_caps_a_turn_and_leaves_the_step_to_the_next():
    tree = cache()
    pass_ = SkippingAdder(tree, [], 100, True, tree.evict, policy=Patient(quantum=30), now_s=0.0)
    first, second, third = request(tree, "a", prompt=80), request(tree, "b", prompt=20), request(tree, "c", prompt=80)
    assert offer(pass_, tree, first) is Verdict.CONTINUE
    assert (first.scheduled_upto, pass_.new_chunked, pass_.chunk_left) == (30, first, 70)
    # One turn at a time is in the middle of its prefill.
    assert offer(pass_, tree, third) is Verdict.CONTINUE and pass_.added == [first]
    assert offer(pass_, tree, second, has_chunked=True) is Verdict.CONTINUE
    assert second.scheduled_upto == 20


def test_of_turns_that_begin_with_the_same_uncached_prefix_one_goes_first():
    tree = cache(capacity=5000)
    pass_ = SkippingAdder(tree, [], 2000, True, tree.evict, policy=Patient(), now_s=0.0)
    first, second = (request(tree, name, prompt=400, content=text("shared", 410)) for name in "ab")
    other = request(tree, "c", prompt=400)
    for turn in (first, second, other):
        assert offer(pass_, tree, turn) is Verdict.CONTINUE
    assert pass_.added == [first, other] and not pass_.short_of_memory
    put(tree, text("shared", 390))
    after = SkippingAdder(tree, [], 2000, True, tree.evict, policy=Patient(), now_s=0.0)
    assert offer(after, tree, second) is Verdict.CONTINUE and after.added == [second]
    assert (second.prefix, second.scheduled_upto) == (390, 400)


def test_a_turn_leaves_kept_contexts_alone_and_those_behind_it_are_tried_even_if_it_may_not_be_passed():
    tree = cache()
    arranged = Arranged([], {"held/0": 900, "ahead/0": 0}, 900)
    pass_ = SkippingAdder(tree, [], 200, True, tree.evict, policy=Patient(False), now_s=0.0, arranged=arranged)
    held, ahead = request(tree, "held", prompt=150), request(tree, "ahead", prompt=150)
    assert offer(pass_, tree, held) is Verdict.CONTINUE
    assert offer(pass_, tree, ahead) is Verdict.CONTINUE
    # What it left alone is not charged to those behind it.
    assert pass_.added == [ahead] and pass_.room == 1000 - 150 - 1 - 10
    lifted = SkippingAdder(tree, [], 200, True, tree.evict, policy=Patient(False), now_s=0.0)
    assert offer(lifted, tree, held) is Verdict.CONTINUE and lifted.added == [held]
