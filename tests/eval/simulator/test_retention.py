from eval.simulator.retention import Retention, Sessions
from mars_sglang.core.policy import BaseTurnPolicy
from mars_sglang.core.views import ContextState, ContextView
from tests.eval.simulator.builders import cache, put, text


class ByName(BaseTurnPolicy):
    """Gives contexts up in the order of their names, and pins what it is told to."""

    pins_kv = True

    def __init__(self, pinned=()):
        self.pinned = pinned

    def order_reclaim(self, contexts, now_s):
        return sorted(range(len(contexts)), key=lambda i: contexts[i].program)

    def pins(self, contexts, running, now_s):
        return [i for i, context in enumerate(contexts) if context.program in self.pinned and running]


def retention(tree, policy=None):
    def views(tokens):
        return [ContextView(program, held, ContextState.TOOL, 0.0, 0.0, 1) for program, held in tokens.items()]

    return Retention(tree, policy or ByName(), views)


def test_what_nobody_owns_goes_before_any_context():
    tree = cache()
    kept = retention(tree)
    owned = put(tree, text("a", 100))
    kept.retain("a", owned)
    nobodys = put(tree, text("z", 50))
    kept.evict(1, 0.0)
    assert owned.alive and not nobodys.alive
    assert kept.tokens("a") == 100


def test_contexts_go_in_the_order_of_the_policy_each_from_its_tail():
    tree = cache()
    kept = retention(tree)
    for name in "cba":
        head = put(tree, text(name, 60))
        kept.retain(name, put(tree, text(name, 100), hint=head))
    kept.evict(41, 0.0)
    assert [kept.tokens(name) for name in "abc"] == [0, 100, 100]
    kept.evict(1, 0.0)
    assert [kept.tokens(name) for name in "abc"] == [0, 60, 100]


def test_a_head_that_two_share_goes_only_after_both_are_given_up():
    tree = cache()
    kept = retention(tree)
    for name in "ab":
        kept.retain(name, put(tree, text(name, 100, shared=40)))
    kept.evict(60, 0.0)
    assert [kept.tokens(name) for name in "ab"] == [40, 100]
    kept.evict(100, 0.0)
    assert tree.resident == 0


def test_the_context_of_the_last_turn_is_the_one_that_counts():
    tree = cache()
    kept = retention(tree)
    kept.retain("a", put(tree, text("old", 50)))
    kept.retain("a", put(tree, text("new", 70)))
    kept.evict(1, 0.0)
    assert (kept.tokens("a"), tree.resident) == (70, 70)


def test_pinned_contexts_stay_while_a_turn_runs():
    tree = cache()
    kept = retention(tree, ByName(pinned=("a",)))
    for name in "ab":
        kept.retain(name, put(tree, text(name, 100)))
    kept.repin(1, 0.0)
    kept.evict(200, 0.0)
    assert (kept.tokens("a"), kept.tokens("b"), tree.locked) == (100, 0, 100)
    kept.repin(0, 0.0)
    kept.evict(100, 0.0)
    assert (kept.tokens("a"), tree.locked) == (0, 0)


def test_contexts_of_sessions_go_after_those_of_none():
    tree = cache(sessions=True)
    sessions = Sessions(tree)
    old = put(tree, text("a", 100))
    sessions.ended("a", old)
    newer = put(tree, text("z", 50))
    tree.evict(1)
    assert old.alive and not newer.alive


def test_a_session_covers_its_path_once_and_falls_back_when_its_end_is_evicted():
    tree = cache(sessions=True)
    sessions = Sessions(tree)
    head = put(tree, text("a", 60))
    sessions.ended("a", head)
    tail = put(tree, text("a", 100), hint=head)
    sessions.ended("a", tail)
    assert (head.sessions, tail.sessions) == (1, 1)
    tree.evict(1)
    assert not tail.alive and head.sessions == 1
    again = put(tree, text("a", 90), hint=head)
    sessions.ended("a", again)
    assert (head.sessions, again.sessions) == (1, 1)
