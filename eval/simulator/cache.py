"""SGLang's radix cache over texts without tokens, and who evicts what first.

A node holds a stretch of a text. Turns make nodes: one per prefilled chunk, one per answer. Only whole leaves go.

Costs are kept near constant per turn: a match starts from the node where the program's last one ended; a lock counts
once at each parent, however many hold it; and the time of use of an ancestor, which SGLang sets along the whole path,
is taken over from a child when the child goes, which is the first moment it could matter.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable

from eval.simulator.host import HostTier
from eval.simulator.text import Span, Text

#: In the logical clock of uses, how much older a parent is than the child that was used with it.
_PARENT_OLDER = 1e-5


class Node:
    """Tokens ``[end - length, end)`` of every text that runs through it."""

    __slots__ = (
        "alive", "children", "device", "device_children", "end", "history", "host", "id", "length", "lock",
        "owners", "parent", "sessions", "spans", "used",
    )  # fmt: skip

    def __init__(self, number: int, parent: Node | None, spans: list[Span], length: int) -> None:
        self.id = number
        self.parent = parent
        self.spans = spans
        self.length = length
        self.end = length + (parent.end if parent else 0)
        self.children: dict[tuple[Hashable, int], Node] = {}
        self.alive = True
        self.device = self.host = False
        self.device_children = 0
        self.lock = 0
        """Locks on it, and children that are locked."""
        self.used = 0.0
        self.history = 0
        """Deepest end that its branch ever had: what T-LRU calls the length of the conversation."""
        self.owners: list[str] = []
        """Programs whose retained context ends here."""
        self.sessions = 0
        """Sessions whose context runs through it."""


class EvictionOrder:
    """What SGLang evicts first: ``--radix-eviction-policy``, behind the session cache's rule where that is on.

    Args:
        tlru: threshold and expected next prompt in tokens for Tail-Optimized LRU (Zhang et al., arXiv:2510.15152); None
            for LRU.
        sessions: contexts of sessions go after those of none.
    """

    def __init__(self, tlru: tuple[int, int] | None = None, sessions: bool = False) -> None:
        self.tlru = tlru
        self.sessions = sessions

    def key(self, node: Node) -> tuple:
        """Smallest first."""
        if self.tlru is None:
            key = (node.used, node.id)
        else:
            threshold, next_prompt = self.tlru
            safe = node.end - node.length >= max(node.history + next_prompt - threshold, 0)
            key = (0 if safe else 1, node.used, node.id)
        return (node.sessions > 0, node.sessions, *key) if self.sessions else key


class PrefixCache:
    """The tree, and the pool of KV tokens that it shares with the turns that run.

    ``capacity = free + resident + what turns own``, always.
    """

    def __init__(self, capacity_tokens: int, order: EvictionOrder, host: HostTier | None = None) -> None:
        self.capacity_tokens = capacity_tokens
        self.free = capacity_tokens
        self.resident = 0
        """Tokens in the tree with a copy on the GPU."""
        self.locked = 0
        """Of these, those that a turn holds."""
        self.evicted_tokens = 0
        self.order = order
        self.host = host
        self.on_leaf_gone: Callable[[Node], None] = lambda node: None
        """Told of each leaf that loses its copy on the GPU."""
        self.on_node_deleted: Callable[[Node], None] = lambda node: None
        """Told of each node that loses its last copy."""
        self._numbers = 0
        self._uses = 0.0
        self.root = self._node(None, [], 0)
        self.leaves: dict[int, Node] = {}
        """Unlocked nodes with a GPU copy and no child that has one, by id."""

    @property
    def evictable(self) -> int:
        return self.resident - self.locked

    # -- look up and insert ----------------------------------------------------------------------

    def match(self, text: Text, limit: int, hint: Node) -> Node:
        """The deepest node within the first ``limit`` tokens of ``text``, marked as used now.

        Args:
            hint: a node that all of ``text`` up to the node's end runs through, evicted since or not.
        """
        node = self._descend(text, limit, hint)
        node.used = self._tick()
        return node

    def insert(self, text: Text, upto: int, hint: Node) -> tuple[Node, int]:
        """Put the first ``upto`` tokens in; the node where they end, and how many had no GPU copy before.

        The caller gives that many tokens of its own to the tree.
        """
        node = self._descend(text, upto, hint)
        adopted = 0
        restored = node
        while not restored.device and restored is not self.root:
            # Only in host memory, and computed again: the turn's KV becomes its GPU copy.
            self._to_device(restored)
            adopted += restored.length
            restored = restored.parent
        if node.end < upto:
            new = self._node(node, text.cut(node.end, upto), upto - node.end)
            node.children[text.at(node.end)] = new
            if self.order.tlru is not None:
                self._raise_history(new)
            self._to_device(new)
            adopted += new.length
            node = new
        node.used = self._tick()
        if self.host is not None:
            self.host.back_up(self, node)
        return node, adopted

    def split_at(self, node: Node, end: int) -> None:
        """Make ``end`` a boundary on the path to ``node``, and the part before it the one used last."""
        while node.parent is not None and node.parent.end >= end:
            node = node.parent
        if node.end > end:
            node = self._split(node, end)
        node.used = self._tick()

    def _descend(self, text: Text, limit: int, node: Node) -> Node:
        while not node.alive or node.end > limit:
            node = node.parent
        while node.end < limit:
            child = node.children.get(text.at(node.end))
            if child is None:
                return node
            shared = text.shared(child.spans, node.end, limit)
            if shared < child.length:
                return self._split(child, node.end + shared)
            node = child
        return node

    def _split(self, child: Node, end: int) -> Node:
        """A new parent with the tokens of ``child`` before ``end``; the child keeps the rest, and its identity."""
        parent = child.parent
        text = Text(child.spans)
        head = end - parent.end
        upper = self._node(parent, text.cut(0, head), head)
        parent.children[text.at(0)] = upper
        upper.children = {text.at(head): child}
        upper.device, upper.host = child.device, child.host
        upper.device_children = int(child.device)
        upper.lock = int(child.lock > 0)
        upper.history = child.history
        upper.sessions = child.sessions
        upper.used = child.used - _PARENT_OLDER
        child.parent, child.spans, child.length = upper, text.cut(head, len(text)), child.length - head
        child.used = self._tick()
        return upper

    def _node(self, parent: Node | None, spans: list[Span], length: int) -> Node:
        self._numbers += 1
        return Node(self._numbers, parent, spans, length)

    def _tick(self) -> float:
        self._uses += 1
        return self._uses

    def _raise_history(self, node: Node) -> None:
        deepest = node.end
        while node is not None and node.history < deepest:
            node.history = deepest
            node = node.parent

    def _to_device(self, node: Node) -> None:
        node.device = True
        node.parent.device_children += 1
        self.resident += node.length
        if node.lock:
            self.locked += node.length
        self._settle(node)
        self._settle(node.parent)

    # -- locks -----------------------------------------------------------------------------------

    def lock(self, node: Node) -> None:
        """Nothing up to the end of ``node`` may be evicted."""
        while node is not self.root:
            node.lock += 1
            if node.lock > 1:
                return
            if node.device:
                self.locked += node.length
            self._settle(node)
            node = node.parent

    def unlock(self, node: Node) -> None:
        """Undo one :meth:`lock`."""
        while node is not self.root:
            node.lock -= 1
            if node.lock:
                return
            if node.device:
                self.locked -= node.length
            self._settle(node)
            node = node.parent

    def unlocked_tokens(self, node: Node) -> int:
        """Evictable tokens on the path to ``node``: what a lock on it would take from the evictable."""
        tokens = 0
        while node is not self.root and not node.lock:
            tokens += node.length if node.device else 0
            node = node.parent
        return tokens

    # -- host tier -------------------------------------------------------------------------------

    def on_device(self, node: Node) -> Node:
        """The nearest node at or above with a GPU copy."""
        while node is not self.root and not node.device:
            node = node.parent
        return node

    def load_back(self, node: Node) -> None:
        """Give GPU copies to the host-only end of the path to ``node``; there has to be room."""
        while node is not self.root and not node.device:
            self._to_device(node)
            self.free -= node.length
            node = node.parent

    # -- eviction --------------------------------------------------------------------------------

    def evict(self, tokens: int, kept: Callable[[Node], bool] | None = None) -> int:
        """Evict leaves in SGLang's order until ``tokens`` are free that were not; the tokens freed.

        Args:
            kept: leaves to pass over.
        """
        if tokens <= 0:
            return 0
        freed = 0
        key = self.order.key
        heap = [(key(node), node.id) for node in self.leaves.values()]
        heapq.heapify(heap)
        while freed < tokens and heap:
            node = self.leaves.get(heapq.heappop(heap)[1])
            if node is None or (kept is not None and kept(node)):
                continue
            parent = node.parent
            freed += node.length
            self._evict_leaf(node)
            if parent.id in self.leaves:
                heapq.heappush(heap, (key(parent), parent.id))
        self.evicted_tokens += freed
        return freed

    def _evict_leaf(self, node: Node) -> None:
        parent = node.parent
        self.resident -= node.length
        self.free += node.length
        node.device = False
        parent.device_children -= 1
        parent.used = max(parent.used, node.used - _PARENT_OLDER)
        self.on_leaf_gone(node)
        if not node.host:
            self.delete(node)
        self._settle(node)
        self._settle(parent)

    def delete(self, node: Node) -> None:
        """Take a node without any copy out of the tree."""
        parent = node.parent
        node.alive = False
        source, offset, _ = node.spans[0]
        del parent.children[source, offset]
        parent.used = max(parent.used, node.used - _PARENT_OLDER)
        self.on_node_deleted(node)

    def _settle(self, node: Node) -> None:
        if node.device and not node.lock and not node.device_children and node is not self.root:
            self.leaves[node.id] = node
        else:
            self.leaves.pop(node.id, None)
        if self.host is not None:
            self.host.settle(node)
