"""Weighted max-min fairness between tenants, around any admission policy."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import fsum, inf

from mars_sglang.core.policy import AdmissionPolicy
from mars_sglang.core.views import AdmissionDecision, PoolView, ProgramView, TurnOutcome

#: Weight of a tenant that has none.
DEFAULT_WEIGHT = 1.0

#: With more than this share of the pool in use, a policy that refuses a program lacks memory for it: what the
#: residency policy fills.
FULL = 0.95

#: With less in use it refuses for a reason of its own: a window, a tick to come. It gets this long before others
#: are paused all the same; the slowest tick, ThunderAgent's, is as long.
PATIENCE_S = 5.0

#: Silence up to which a program of a tenant under its share keeps its place. Most tool calls are shorter; past it the
#: policy is to say whether the program is worth its memory.
GRACE_S = 10.0


class FairShare:
    """Shares out by weight what the wrapped policy admits: tokens of footprint.

    The *share* of a tenant is its weight over the weights of all tenants that have programs inside or waiting, of the
    tokens handed out.

    - While programs of several tenants wait, the policy is offered those of the poorest only: least footprint per
      weight, and of several with nothing inside, those that got no place since the others wait. So nobody takes the
      room that a poorer tenant waits for, and what the poorer does not need is the others'.
    - Where a tenant under its share waits and is refused, programs inside a tool of tenants over theirs are paused,
      and as soon as that makes the room it starts, in the same decision. Neither the number of programs nor, past
      :data:`FULL`, the sum of footprints grows by it.
    - Where the engine keeps contexts, the policy hears of it only if every tenant wants its share of the memory, as it
      then gives away more than there is.
    - A program of a tenant under its share that was heard from within :data:`GRACE_S` is not paused for anybody
      else; where the pool is too full, tenants over their share pay.

    Footprints come in whole programs: a tenant may be over its share by its last one, or by its only one, and
    none is paused below its share for another. With one tenant it is the wrapped policy.

    Args:
        policy: decides who of a tenant starts, and how much fits.
        weights: by tenant; :data:`DEFAULT_WEIGHT` for one that is not named.

    Raises:
        ValueError: a weight that is not above 0.
    """

    def __init__(self, policy: AdmissionPolicy, weights: Mapping[str, float]):
        for tenant, weight in weights.items():
            if not 0 < weight < inf:
                raise ValueError(f"weight of tenant {tenant!r}: {weight}; accepted: a number above 0")
        self.policy = policy
        self.name = policy.name
        self._weights = dict(weights)
        self._served_s: dict[str, float] = {}
        """When a tenant last got a place. Bounded by the tenants present."""

    def footprint_tokens(self, program: ProgramView) -> int:
        return self.policy.footprint_tokens(program)

    def observe_pause(self, program: ProgramView, seconds: float) -> None:
        self.policy.observe_pause(program, seconds)

    def observe_turn(self, turn: TurnOutcome, now_s: float) -> None:
        self.policy.observe_turn(turn, now_s)

    def observe_over(self, program: ProgramView, said: bool, now_s: float) -> None:
        self.policy.observe_over(program, said, now_s)

    def decide(
        self,
        admitted: Sequence[ProgramView],
        waiting: Sequence[ProgramView],
        pool: PoolView,
        now_s: float,
    ) -> AdmissionDecision:
        if _of_one_tenant(admitted, waiting):
            return self.policy.decide(admitted, waiting, pool, now_s)
        books = _Books(self.policy, self._weights, admitted, waiting)
        if pool.engine_keeps and books.some_want_less(waiting, pool.capacity_tokens):
            # Given away several times over, memory is shared out by the engine's order, which knows no tenants.
            pool = replace(pool, engine_keeps=False)
        self._served_s = {tenant: at_s for tenant, at_s in self._served_s.items() if tenant in books.used}
        poorest = self._poorest(books, waiting)
        offered = {p.program: p for p in waiting if p.tenant in poorest}
        decision = self.policy.decide(admitted, list(offered.values()), pool, now_s)
        asked = [offered[program] for program in decision.admit]
        spared = self._pause(books, [books.inside[program] for program in decision.pause], asked, pool, now_s)
        self._admit(books, asked, spared, pool, alone=len(offered) == len(waiting) and len(poorest) == 1)
        left = [p for p in offered.values() if p.program not in books.started]
        if left:
            self._swap(books, left, pool, now_s)
        for p in books.started.values():
            self._served_s[p.tenant] = now_s
        reasons = {**decision.reasons, **books.reasons}
        return AdmissionDecision(pause=tuple(books.paused), admit=tuple(books.started), reasons=reasons)

    def _poorest(self, books: "_Books", waiting: Sequence[ProgramView]) -> set[str]:
        """Tenants whose turn it is among those that wait; several only if they have equally little."""
        since_s: dict[str, float] = {}
        for p in waiting:
            since_s[p.tenant] = min(since_s.get(p.tenant, _since_s(p)), _since_s(p))
        if not since_s:
            return set()
        least = min(books.level(tenant) for tenant in since_s)
        equal = [tenant for tenant in since_s if books.level(tenant) == least]
        oldest_s = min(since_s[tenant] for tenant in equal)
        unserved = {tenant for tenant in equal if self._served_s.get(tenant, -inf) < oldest_s}
        return unserved or {min(equal, key=lambda tenant: (self._served_s[tenant], since_s[tenant], tenant))}

    def _pause(
        self, books: "_Books", asked: list[ProgramView], admit: list[ProgramView], pool: PoolView, now_s: float
    ) -> bool:
        """As ``asked``, except for what works still for a tenant under its share; whether there was such.

        Where the pool is too full, tenants over their share pay in its place, as far as they have programs inside a
        tool.
        """
        served = {p.tenant for p in admit}
        spared = []
        for v in asked:
            # What a tenant gives up for a program of its own is its own affair.
            works = v.idle_s(now_s) < GRACE_S and v.tenant not in served
            if works and books.used[v.tenant] < books.share(v.tenant):
                spared.append(v)
            else:
                books.pause(v)
        host = pool.host_tokens
        room = max(pool.capacity_tokens, host) if pool.host_copies else pool.capacity_tokens + host
        too_full = books.total + pool.anonymous_tokens - room
        if spared and too_full > 0:
            books.make_room(min(too_full, sum(books.footprint(v) for v in spared)))
        return bool(spared)

    def _admit(self, books: "_Books", asked: list[ProgramView], spared: bool, pool: PoolView, alone: bool) -> None:
        """As ``asked``, but no tenant gets further over its share unless it waits ``alone``, and not where the room
        for it was to come from a program that was ``spared``."""
        tokens = max(pool.capacity_tokens - pool.anonymous_tokens, books.total)
        served = set()
        for p in asked:
            within = books.used[p.tenant] < books.share(p.tenant, tokens)
            if within or (not spared and (alone or p.tenant not in served)):
                books.start(p)
                served.add(p.tenant)

    def _swap(self, books: "_Books", left: Sequence[ProgramView], pool: PoolView, now_s: float) -> None:
        """Make room for the first of the poorest tenant's programs that are ``left`` waiting, and start it if that
        was enough."""
        p = min(left, key=lambda p: (books.level(p.tenant), self._served_s.get(p.tenant, -inf), p.arrived_s, p.program))
        if books.used[p.tenant] >= books.share(p.tenant):
            return
        need = books.footprint(p)
        lacking = min(need, books.total + pool.anonymous_tokens + need - FULL * pool.capacity_tokens)
        if lacking <= 0 and now_s - _since_s(p) < PATIENCE_S:
            return
        # Where there is memory it takes one place.
        lacking = max(1.0, lacking)
        if books.make_room(lacking) >= lacking:
            books.start(p)
            books.reasons[p.program] = "its tenant has less than its share"


class _Books:
    """Who has how much, in the course of one decision."""

    def __init__(
        self,
        policy: AdmissionPolicy,
        weights: Mapping[str, float],
        admitted: Sequence[ProgramView],
        waiting: Sequence[ProgramView],
    ):
        self.footprint = policy.footprint_tokens
        self.inside = {p.program: p for p in admitted}
        self.used = dict.fromkeys((p.tenant for p in (*admitted, *waiting)), 0)
        """Footprint in tokens, of every tenant present."""
        for p in admitted:
            self.used[p.tenant] += self.footprint(p)
        self.total = sum(self.used.values())
        self.paused: dict[str, ProgramView] = {}
        self.started: dict[str, ProgramView] = {}
        self.reasons: dict[str, str] = {}
        self._weights = {tenant: weights.get(tenant, DEFAULT_WEIGHT) for tenant in self.used}
        self._weight = fsum(self._weights.values())

    def some_want_less(self, waiting: Sequence[ProgramView], tokens: float) -> bool:
        """Whether a tenant's programs, inside and ``waiting``, need less than its part of ``tokens``."""
        wanted = dict(self.used)
        for p in waiting:
            wanted[p.tenant] += self.footprint(p)
        return any(wanted[tenant] < self.share(tenant, tokens) for tenant in wanted)

    def level(self, tenant: str) -> float:
        """Tokens per weight: the poorest has the least."""
        return self.used[tenant] / self._weights[tenant]

    def share(self, tenant: str, tokens: float | None = None) -> float:
        """The tenant's part of ``tokens``, else of those handed out."""
        return (self.total if tokens is None else tokens) * self._weights[tenant] / self._weight

    def pause(self, p: ProgramView) -> None:
        self.paused[p.program] = p
        self._count(p, -self.footprint(p))

    def start(self, p: ProgramView) -> None:
        self.started[p.program] = p
        self._count(p, self.footprint(p))

    def make_room(self, tokens: float) -> float:
        """Pause programs inside a tool of tenants over their share, of the richest first and of those who came last,
        until ``tokens`` are free or none is left that its tenant does not need for its share; tokens freed."""
        shares = {tenant: self.share(tenant) for tenant in self.used}
        idle: dict[str, list[ProgramView]] = {}
        for p in self.inside.values():
            if not p.in_flight and p.program not in self.paused and self.used[p.tenant] > shares[p.tenant]:
                idle.setdefault(p.tenant, []).append(p)
        for programs in idle.values():
            programs.sort(key=lambda p: (p.arrived_s, p.program))
        freed = 0
        while freed < tokens and idle:
            tenant = max(idle, key=lambda tenant: (self.level(tenant), tenant))
            p = idle[tenant].pop()
            if not idle[tenant]:
                del idle[tenant]
            size = self.footprint(p)
            if self.used[tenant] - size >= shares[tenant]:
                self.pause(p)
                self.reasons[p.program] = "its tenant has more than its share, and another waits"
                freed += size
        return freed

    def _count(self, p: ProgramView, tokens: int) -> None:
        self.used[p.tenant] += tokens
        self.total += tokens


def _of_one_tenant(admitted: Sequence[ProgramView], waiting: Sequence[ProgramView]) -> bool:
    first = admitted[0].tenant if admitted else waiting[0].tenant if waiting else ""
    return all(p.tenant == first for p in admitted) and all(p.tenant == first for p in waiting)


def _since_s(p: ProgramView) -> float:
    return p.arrived_s if p.waiting_since_s is None else p.waiting_since_s
