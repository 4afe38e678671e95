"""SGLang's HiCache with its default policy, write-through: what is computed is copied to host memory at once.

The copy to the host takes no time here, as in the emulated server; only the way back is timed.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eval.simulator.cache import Node, PrefixCache

#: Tokens under which a load is not worth it to SGLang (``UnifiedRadixCache.load_back_threshold``).
LOAD_BACK_TOKENS = 10


class HostTier:
    """A pool of host memory for KV.

    Args:
        capacity_tokens: its size.
    """

    def __init__(self, capacity_tokens: int) -> None:
        self.capacity_tokens = capacity_tokens
        self.used_tokens = 0
        self._leaves: dict[int, Node] = {}
        """Unlocked nodes that are in host memory only and have no children, by id."""

    def back_up(self, cache: PrefixCache, node: Node) -> None:
        """Copy what is not in host memory yet of the path to ``node``, from the root on, as far as there is room."""
        chain = []
        while node is not cache.root and not node.host:
            chain.append(node)
            node = node.parent
        for missing in reversed(chain):
            if not self._make_room(cache, missing.length):
                return
            missing.host = True
            self.used_tokens += missing.length

    def settle(self, node: Node) -> None:
        """Note whether the node may leave host memory."""
        if node.alive and node.host and not node.device and not node.children and not node.lock:
            self._leaves[node.id] = node
        else:
            self._leaves.pop(node.id, None)

    def _make_room(self, cache: PrefixCache, tokens: int) -> bool:
        if self.used_tokens + tokens <= self.capacity_tokens:
            return True
        heap = [(cache.order.key(leaf), leaf.id) for leaf in self._leaves.values()]
        heapq.heapify(heap)
        while self.used_tokens + tokens > self.capacity_tokens and heap:
            leaf = self._leaves.pop(heapq.heappop(heap)[1], None)
            if leaf is None:
                continue
            leaf.host = False
            self.used_tokens -= leaf.length
            cache.delete(leaf)
            self.settle(leaf.parent)
            if leaf.parent.id in self._leaves:
                heapq.heappush(heap, (cache.order.key(leaf.parent), leaf.parent.id))
        return self.used_tokens + tokens <= self.capacity_tokens
