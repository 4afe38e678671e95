"""The two policy protocols and their registries.

A turn policy orders work inside the engine; an admission policy says which programs may
start. They are independent choices: any admission policy runs over any turn policy, the
host's native ones included.

Policies are pure: they get views and the time, and return a decision. Same input, same
decision, on every rank, in a simulator and in a live server. So a policy reads no clock,
draws no random numbers and iterates no set into a result, and each sort key ends in an id.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from mars_sglang.core.views import AdmissionDecision, ContextView, PoolView, ProgramView, RunningView, TurnView


class TurnPolicy(Protocol):
    """Order of turns, retention and victims inside one engine.

    Called by the engine adapter (:mod:`mars_sglang.engine`), by the simulator, and by the
    contract tests that every registered policy passes.
    """

    name: str

    def order_turns(self, turns: Sequence[TurnView], now_s: float) -> list[int]:
        """Indices into ``turns``, first to prefill first: a permutation."""

    def may_be_passed(self, turn: TurnView, now_s: float) -> bool:
        """Whether a turn that does not fit now may be passed by one behind it that does.

        Has to turn False within a bounded time, or the turn could starve.
        """

    def order_reclaim(self, contexts: Sequence[ContextView], now_s: float) -> list[int]:
        """Indices into ``contexts``, first to give up its KV first: a permutation.

        Retention is this order and nothing harder. A retained context counts as evictable,
        so it never makes the engine refuse what would fit without it.
        """

    def order_victims(self, running: Sequence[RunningView], now_s: float) -> list[int]:
        """Indices into ``running``, first to be retracted first: a permutation."""


class AdmissionPolicy(Protocol):
    """Which programs may start. Called by the gate on every event and once a second."""

    name: str

    def decide(
        self,
        admitted: Sequence[ProgramView],
        waiting: Sequence[ProgramView],
        pool: PoolView,
        now_s: float,
    ) -> AdmissionDecision:
        """Programs to pause (admitted, nothing in flight) and to admit (waiting)."""

    def observe_pause(self, seconds: float) -> None:
        """Learn from a tool pause that ended: the program was silent for ``seconds``."""


_TURN_POLICIES: dict[str, Callable[[], TurnPolicy]] = {}
_ADMISSION_POLICIES: dict[str, Callable[[], AdmissionPolicy]] = {}


def register_turn_policy(factory: Callable[[], TurnPolicy]) -> Callable[[], TurnPolicy]:
    """Class decorator: make a turn policy known under its ``name``.

    Raises:
        ValueError: the name is taken.
    """
    return _register(_TURN_POLICIES, "turn", factory)


def register_admission_policy(factory: Callable[[], AdmissionPolicy]) -> Callable[[], AdmissionPolicy]:
    """Class decorator: make an admission policy known under its ``name``.

    Raises:
        ValueError: the name is taken.
    """
    return _register(_ADMISSION_POLICIES, "admission", factory)


def turn_policy(name: str) -> TurnPolicy:
    """A new policy object.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    return _create(_TURN_POLICIES, "turn", name)


def admission_policy(name: str) -> AdmissionPolicy:
    """A new policy object.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    return _create(_ADMISSION_POLICIES, "admission", name)


def turn_policy_names() -> list[str]:
    return sorted(_loaded(_TURN_POLICIES))


def admission_policy_names() -> list[str]:
    return sorted(_loaded(_ADMISSION_POLICIES))


def _register(registry, kind, factory):
    name = factory.name
    if name in registry:
        raise ValueError(f"{kind} policy {name!r} is registered twice: {registry[name]!r} and {factory!r}")
    registry[name] = factory
    return factory


def _loaded(registry):
    # One line per policy file. Imported here and not above: the files import this module.
    import mars_sglang.core.admission.footprint
    import mars_sglang.core.policies.mars  # noqa: F401

    return registry


def _create(registry, kind, name):
    factory = _loaded(registry).get(name)
    if factory is None:
        known = ", ".join(sorted(registry))
        raise ValueError(f"unknown {kind} policy {name!r}; known: {known}")
    return factory()
