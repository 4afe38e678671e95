"""CONCUR's window, by hand: a pool of 1000 tokens, a step of the window every 5 s."""

from mars_sglang.core.admission.concur import ALPHA, BETA, CONTROL_S, WINDOW_MIN, ConcurAdmission
from mars_sglang.core.views import PoolView, TurnOutcome
from tests.core.admission.programs import in_tool, new, working


def holding(programs) -> PoolView:
    """A pool of which turns in flight hold the contexts of these programs."""
    return PoolView(1000, 0, referenced_tokens=sum(p.context_tokens for p in programs))


def missed(policy: ConcurAdmission, known: int, cached: int) -> None:
    policy.observe_turn(TurnOutcome("t", known + 100, cached, known, 50, 150, 0.0), 0.0)


def grown(steps: int) -> ConcurAdmission:
    """A policy after ``steps`` increases; its last step was at ``steps`` x 5 s."""
    policy = ConcurAdmission()
    for step in range(steps + 1):
        policy.decide([], [new("w", 1)], holding([]), CONTROL_S * step)
    return policy


def test_the_window_grows_by_two_while_little_is_used_and_programs_wait():
    policy = ConcurAdmission()
    waiting = [new(name, 20, arrived_s=float(i)) for i, name in enumerate("abcdefg")]
    assert policy.decide([], waiting, holding([]), 0.0).admit == ("a", "b")  # W = 2
    inside = [working("a", 99), working("b", 100)]
    assert policy.decide(inside, waiting[2:], holding(inside), CONTROL_S - 0.1).admit == ()
    # 199 / 1000 < .2: W = 2 + 2 = 4, so two more.
    assert policy.decide(inside, waiting[2:], holding(inside), CONTROL_S).admit == ("c", "d")
    # 200 / 1000 is not below .2: W stays 4.
    inside = [working(name, 50) for name in "abcd"]
    assert policy.decide(inside, waiting[4:], holding(inside), 2 * CONTROL_S).admit == ()
    assert policy.window == 4


def test_the_window_is_halved_when_much_is_used_and_the_cache_forgets_and_the_latest_idle_pause():
    policy = grown(3)  # W = 2 + 3 x 2 = 8
    assert policy.window == ALPHA * 4
    # Hit rate (10 + 80) / (400 + 100) = .18 < .2, usage 6 x 100 / 1000 = .6 > .5: W = 8 x .5 = 4, two too many.
    missed(policy, known=400, cached=10)
    missed(policy, known=100, cached=80)
    inside = [in_tool(name, 100, arrived_s=float(i)) for i, name in enumerate("abcd")]
    inside += [working("e", 100, arrived_s=4.0), in_tool("f", 100, arrived_s=5.0)]
    decision = policy.decide(inside, [], holding(inside), 4 * CONTROL_S)
    assert policy.window == 8 * BETA
    # f came last; then e, which is at work; then d.
    assert decision.pause == ("f", "d")


def test_one_bad_signal_alone_changes_nothing():
    full = [working("a", 501)]
    policy = grown(1)
    missed(policy, known=1000, cached=200)  # .2 is not below .2
    policy.decide(full, [], holding(full), 2 * CONTROL_S)
    assert policy.window == 4
    missed(policy, known=1000, cached=199)
    policy.decide([working("a", 500)], [], holding([working("a", 500)]), 3 * CONTROL_S)  # .5 is not above .5
    assert policy.window == 4
    policy.decide(full, [], holding(full), 4 * CONTROL_S)  # no turn since: the last hit rate holds
    assert policy.window == 2


def test_what_is_merely_cached_is_no_usage():
    policy = grown(0)
    # 900 tokens inside a tool, of which turns in flight hold nothing: U = 0 < .2.
    policy.decide([in_tool("a", 900)], [new("b", 1)], PoolView(1000, 0, referenced_tokens=0), CONTROL_S)
    assert policy.window == 2 * ALPHA
    policy.decide([in_tool("a", 900)], [new("b", 1)], PoolView(1000, 200, referenced_tokens=200), 2 * CONTROL_S)
    assert policy.window == 2 * ALPHA


def test_a_window_nobody_asks_for_does_not_grow():
    policy = grown(0)
    for step in range(1, 10):
        policy.decide([working("a", 10)], [], holding([working("a", 10)]), CONTROL_S * step)
    assert policy.window == ALPHA


def test_the_window_is_never_cut_below_one():
    policy = grown(0)
    for step in range(1, 5):
        missed(policy, known=100, cached=0)
        policy.decide([working("a", 900)], [], holding([working("a", 900)]), CONTROL_S * step)
    assert policy.window == WINDOW_MIN == 1


def test_a_shared_prefix_does_not_count_as_more_than_was_known():
    policy = grown(1)
    missed(policy, known=0, cached=5000)
    missed(policy, known=1000, cached=100)
    policy.decide([working("a", 900)], [], holding([working("a", 900)]), 2 * CONTROL_S)
    assert policy.window == 2
