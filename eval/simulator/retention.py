"""What belongs to whom in the cache: retained contexts under a policy of ours, and SGLang's session references.

The order of reclaiming is that of :mod:`mars_sglang.engine.radix_cache`: first what is no known program's latest
context, in SGLang's order; then contexts in the policy's order, each from its tail.
"""

from __future__ import annotations

from collections.abc import Callable

from eval.simulator.cache import Node, PrefixCache
from mars_sglang.core.kept import KeptContexts
from mars_sglang.core.policy import TurnPolicy
from mars_sglang.core.views import ContextView


class Retention:
    """The tails of the programs' contexts.

    Args:
        views: contexts as the policy sees them, in order, from their tokens by program.
    """

    def __init__(
        self, cache: PrefixCache, policy: TurnPolicy, views: Callable[[dict[str, int]], list[ContextView]]
    ) -> None:
        self._cache = cache
        self._policy = policy
        self._views = views
        self._tails: dict[str, Node] = {}
        self.kept = KeptContexts()
        """Of the tails, what turns have to leave alone."""
        self._pins: dict[str, Node] = {}
        cache.on_leaf_gone = self._move_tails

    def retain(self, program: str, node: Node) -> None:
        """A turn of the program ended, and its context ends at ``node``."""
        self.release(program)
        if node is not self._cache.root:
            self._tails[program] = node
            node.owners.append(program)

    def release(self, program: str) -> None:
        """The context is nobody's any more."""
        node = self._tails.pop(program, None)
        if node is not None:
            node.owners.remove(program)
        self.kept.drop(program)

    def keep(self, view: ContextView, now_s: float) -> None:
        """Ask the policy from whom to keep this context."""
        kept = self._policy.keep(view, now_s) if self._policy.keeps_kv else None
        if kept is not None:
            self.kept.put(view.program, kept)

    def tokens(self, program: str) -> int:
        """Retained for the program; a shared prefix counts for each that shares it."""
        node = self._tails.get(program)
        return 0 if node is None else node.end

    def evict(self, tokens: int, now_s: float) -> None:
        """Make ``tokens`` more free, as far as possible."""
        given_up: set[str] = set()
        skipped: dict[str, None] = {}

        def kept(node: Node) -> bool:
            keepers = [program for program in node.owners if program not in given_up]
            skipped.update(dict.fromkeys(keepers))
            return bool(keepers)

        tokens -= self._cache.evict(tokens, kept)
        while tokens > 0 and skipped:
            views = self._views({program: self._tails[program].end for program in skipped})
            given_up.add(views[self._policy.order_reclaim(views, now_s)[0]].program)
            skipped.clear()
            tokens -= self._cache.evict(tokens, kept)

    def repin(self, running: int, now_s: float, more: bool = True) -> None:
        """Lock the contexts that the policy pins now, and no others. Before every pass.

        Args:
            running: turns that decode. One in the middle of its prefill cannot be retracted to make room for
                another, so it does not count: SGLang would abort a lone turn that lacks memory to decode.
            more: whether contexts may be locked, too, that are not; not in the middle of a prefill.
        """
        if not self._policy.pins_kv:
            return
        views = self._views({program: node.end for program, node in self._tails.items()})
        wanted = {views[i].program: None for i in self._policy.pins(views, running, now_s)}
        for program, node in list(self._pins.items()):
            if program not in wanted or self._tails.get(program) is not node:
                del self._pins[program]
                self._cache.unlock(node)
        for program in wanted if more else ():
            if program not in self._pins:
                node = self._pins[program] = self._tails[program]
                self._cache.lock(node)

    def _move_tails(self, node: Node) -> None:
        parent = node.parent
        for program in node.owners:
            self.kept.lose(program, node.length)
            if parent is self._cache.root:
                del self._tails[program]
                self.kept.drop(program)
            else:
                self._tails[program] = parent
                parent.owners.append(program)
        node.owners = []


class Sessions:
    """SGLang's session radix cache (``session_ref_tracker``): contexts of sessions outlive those of none.

    Nobody closes a session in a replay, so a program that is over goes on counting.
    """

    def __init__(self, cache: PrefixCache) -> None:
        self._cache = cache
        self._ends: dict[str, dict[int, Node]] = {}
        """Per session, the nodes where its contexts end, by id; more than one after its history was cut."""
        self._sessions_at: dict[int, dict[str, None]] = {}
        cache.on_node_deleted = self._fall_back

    def ended(self, session: str, node: Node) -> None:
        """A turn of the session ended at ``node``."""
        ends = self._ends.setdefault(session, {})
        if node.id in ends or node is self._cache.root:
            return
        before = node.parent
        while before is not self._cache.root and before.id not in ends:
            before = before.parent
        self._cover(node, before, 1)
        self._mark(session, node)
        if before is not self._cache.root:
            self._unmark(session, before)

    def _cover(self, node: Node, stop: Node, by: int) -> None:
        while node is not stop:
            node.sessions += by
            node = node.parent

    def _mark(self, session: str, node: Node) -> None:
        self._ends[session][node.id] = node
        self._sessions_at.setdefault(node.id, {})[session] = None

    def _unmark(self, session: str, node: Node) -> None:
        del self._ends[session][node.id]
        del self._sessions_at[node.id][session]

    def _fall_back(self, node: Node) -> None:
        root = self._cache.root
        for session in list(self._sessions_at.pop(node.id, ())):
            parent = node.parent
            known = parent.id in self._ends[session]
            self._cover(node, root if known else parent, -1)
            del self._ends[session][node.id]
            if not known and parent is not root:
                self._mark(session, parent)
