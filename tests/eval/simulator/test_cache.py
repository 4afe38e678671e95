from hypothesis import given, settings
from hypothesis import strategies as st

from eval.simulator.host import HostTier
from eval.simulator.text import Text
from tests.eval.simulator.builders import cache, put, text


def ends(tree):
    """Where the nodes end, by first source, of what has a GPU copy."""
    found, stack = [], list(tree.root.children.values())
    while stack:
        node = stack.pop()
        if node.device:
            found.append((node.spans[0][0], node.end))
        stack += node.children.values()
    return sorted(found)


def test_a_match_finds_what_was_inserted_and_no_more_than_its_limit():
    tree = cache()
    put(tree, text("a", 100))
    assert tree.match(text("a", 300), 300, tree.root).end == 100
    assert tree.match(text("a", 300), 60, tree.root).end == 60
    assert tree.match(text("b", 300), 300, tree.root) is tree.root


def test_a_shared_head_is_held_once():
    tree = cache()
    put(tree, text("a", 100, shared=40))
    put(tree, text("b", 100, shared=40))
    assert tree.resident == 160
    assert ends(tree) == [("a", 100), ("b", 100), ("head", 40)]


def test_a_hint_survives_the_eviction_of_its_node():
    tree = cache()
    head = put(tree, text("a", 50))
    tail = put(tree, text("a", 100), hint=head)
    tree.evict(1)
    assert not tail.alive
    assert tree.match(text("a", 100), 100, tail) is head


def test_a_hint_survives_a_split_of_its_node():
    tree = cache()
    node = put(tree, text("a", 100))
    tree.match(text("a", 100), 30, node)
    assert node.alive and node.end == 100
    assert tree.match(text("a", 200), 200, node) is node


def test_whole_leaves_go_least_recently_used_first():
    tree = cache()
    a, b = put(tree, text("a", 100)), put(tree, text("b", 50))
    tree.match(text("a", 100), 100, a)
    assert tree.evict(1) == 50
    assert not b.alive
    assert tree.free == 900


def test_a_parent_goes_after_its_children_and_counts_as_used_with_them():
    tree = cache()
    head = put(tree, text("a", 60))
    put(tree, text("a", 100), hint=head)
    put(tree, text("b", 50))
    tree.match(text("a", 100), 100, head)
    assert tree.evict(60) == 90  # b, then the tail of a; not the head, which was used as late
    assert head.alive


def test_nothing_locked_is_evicted_and_locks_nest():
    tree = cache()
    head = put(tree, text("a", 60))
    tail = put(tree, text("a", 100), hint=head)
    tree.lock(tail)
    tree.lock(head)
    assert (tree.locked, tree.evictable, tree.evict(1000)) == (100, 0, 0)
    assert tree.unlocked_tokens(tail) == 0
    tree.unlock(tail)
    assert (tree.locked, tree.unlocked_tokens(tail)) == (60, 40)
    assert tree.evict(1000) == 40
    tree.unlock(head)
    assert tree.evict(1000) == 60


def test_a_split_of_a_locked_node_stays_locked():
    tree = cache()
    node = put(tree, text("a", 100))
    tree.lock(node)
    upper = tree.match(text("a", 100), 30, node)
    assert (upper.end, upper.lock, tree.locked) == (30, 1, 100)
    tree.unlock(node)
    assert (upper.lock, tree.locked) == (0, 0)


def test_tail_optimized_lru_takes_first_what_the_budget_can_spare():
    tree = cache(tlru=(60, 10))
    head = put(tree, text("a", 80))
    tail = put(tree, text("a", 200), hint=head)
    old = put(tree, text("b", 30))
    put(tree, text("a", 210), hint=tail)
    # Budget of a: 210 + 10 - 60 = 160 tokens, so its last node is spare; that of b is 0, so all of it is.
    tree.match(text("b", 30), 30, old)
    assert tree.evict(1) == 10
    assert tree.evict(1) == 30
    assert head.alive and tail.alive


def test_host_copies_outlive_eviction_and_come_back():
    host = HostTier(500)
    tree = cache(host=host)
    head = put(tree, text("a", 60))
    tail = put(tree, text("a", 100), hint=head)
    assert host.used_tokens == 100
    tree.evict(40)
    assert tail.alive and not tail.device
    found = tree.match(text("a", 100), 100, head)
    assert found is tail and tree.on_device(tail) is head
    tree.load_back(tail)
    assert tail.device and tree.resident == 100 and tree.free == 900


def test_host_memory_gives_up_what_was_used_longest_ago_and_nothing_that_is_on_the_gpu():
    host = HostTier(150)
    tree = cache(host=host)
    a = put(tree, text("a", 100))
    b = put(tree, text("b", 100))
    assert a.host and not b.host
    tree.evict(200)
    assert a.alive and not b.alive
    c = put(tree, text("c", 100))
    assert c.host and not a.alive and host.used_tokens == 100


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(1, 120), st.sampled_from([0, 20, 40]), st.integers(0, 150)),
        max_size=30,
    ),
    st.sampled_from([None, 150, 2000]),
)
def test_tokens_are_conserved_and_matches_are_prefixes(steps, host_tokens):
    host = None if host_tokens is None else HostTier(host_tokens)
    tree = cache(capacity=400, host=host)
    for source, length, shared, evicted in steps:
        content = text(source, max(length, shared + 1), shared)
        if tree.free < len(content):
            tree.evict(len(content) - tree.free)
        node = put(tree, content)
        assert tree.free >= 0 and node.end == len(content)
        tree.evict(evicted)
        on_device, in_host, stack = 0, 0, list(tree.root.children.values())
        while stack:
            child = stack.pop()
            assert child.alive and (child.device or child.host) and child.end == child.parent.end + child.length
            assert child.parent.device or not child.device or child.parent is tree.root
            assert len(Text(child.spans)) == child.length
            on_device += child.length * child.device
            in_host += child.length * child.host
            stack += child.children.values()
        assert on_device == tree.resident == 400 - tree.free
        assert host is None or in_host == host.used_tokens <= host.capacity_tokens
