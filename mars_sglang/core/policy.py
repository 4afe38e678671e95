"""The two policy protocols and their registries.

A turn policy orders work inside the engine; an admission policy says which programs may
start. They are independent choices: any admission policy runs over any turn policy, the
host's native ones included.

Policies are pure: they get views and the time, and return a decision. Same input, same
decision, on every rank, in a simulator and in a live server. So a policy reads no clock,
draws no random numbers and iterates no set into a result, and each sort key ends in an id.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mars_sglang.core.kept import Kept
from mars_sglang.core.views import (
    AdmissionDecision,
    ContextState,
    ContextView,
    EngineFacts,
    PoolView,
    ProgramView,
    RunningView,
    TurnEvent,
    TurnOutcome,
    TurnView,
)


class TurnPolicy(Protocol):
    """Order of turns, retention and victims inside one engine.

    Called by the engine adapter (:mod:`mars_sglang.engine`), by the simulator, and by the
    contract tests that every registered policy passes. :class:`BaseTurnPolicy` answers what
    a policy has no opinion on.
    """

    name: str
    pins_kv: bool
    """Whether :meth:`pins` is to be asked at all."""
    cuts_prefills: bool
    """Whether :meth:`quantum_tokens` is."""
    keeps_kv: bool
    """Whether :meth:`rank` and :meth:`keep` are."""

    def attach(self, engine: EngineFacts) -> None:
        """What there is to schedule on. Called once, before anything else."""

    def observe(self, event: TurnEvent, now_s: float) -> None:
        """Something happened. Every rank's policy sees the same events in the same order."""

    def order_turns(self, turns: Sequence[TurnView], now_s: float) -> list[int]:
        """Indices into ``turns``, first to prefill first: a permutation."""

    def quantum_tokens(self, turn: TurnView, now_s: float) -> int | None:
        """Prefill tokens that this turn gets in one step, at most, 1 or more; None: the engine's chunk."""

    def may_be_passed(self, turn: TurnView, now_s: float) -> bool:
        """Whether a turn that does not fit now may be passed by one behind it that does. Where it waits for memory, by
        one of :data:`.prefill_pass.PASSING_TOKENS` at most.

        Has to turn False within a bounded time, or the turn could starve.
        """

    def rank(self, turn: TurnView, now_s: float) -> Any:
        """Where a waiting turn stands among turns and kept contexts; smaller is ahead. :meth:`order_turns` has the same
        order."""

    def keep(self, context: ContextView, now_s: float) -> Kept | None:
        """From which turns to keep the context of a program that went into a tool, and until when; None: from none.

        Asked when the program's turn ends, and again when the time is over.
        """

    def order_reclaim(self, contexts: Sequence[ContextView], now_s: float) -> list[int]:
        """Indices into ``contexts``, first to give up its KV first: a permutation."""

    def pins(self, contexts: Sequence[ContextView], running: int, now_s: float) -> list[int]:
        """Indices into ``contexts`` of those that nothing may reclaim now.

        Pinned KV makes the engine refuse, and retract, what would fit without it, which is
        why the policy of this project pins nothing. With no turn ``running`` (decoding) the answer has
        to be empty: else the engine could wait for ever.
        """

    def order_victims(self, running: Sequence[RunningView], now_s: float) -> list[int]:
        """Indices into ``running``, first to be retracted first: a permutation."""


class BaseTurnPolicy:
    """First come first served, nobody passed, the cache's oldest first: what SGLang does unless told otherwise."""

    pins_kv = False
    cuts_prefills = False
    keeps_kv = False

    def attach(self, engine: EngineFacts) -> None:
        pass

    def observe(self, event: TurnEvent, now_s: float) -> None:
        pass

    def order_turns(self, turns: Sequence[TurnView], now_s: float) -> list[int]:
        return sorted(range(len(turns)), key=lambda i: (turns[i].priority, turns[i].arrived_s, turns[i].turn_id))

    def quantum_tokens(self, turn: TurnView, now_s: float) -> int | None:
        return None

    def may_be_passed(self, turn: TurnView, now_s: float) -> bool:
        return False

    def rank(self, turn: TurnView, now_s: float) -> Any:
        return turn.priority, turn.arrived_s

    def keep(self, context: ContextView, now_s: float) -> Kept | None:
        return None

    def order_reclaim(self, contexts: Sequence[ContextView], now_s: float) -> list[int]:
        """Least recently used first; one whose next turn waits was used just now, when its prefix was looked up."""

        def key(i: int):
            context = contexts[i]
            return context.state == ContextState.WAITING, -context.idle_s, context.program

        return sorted(range(len(contexts)), key=key)

    def pins(self, contexts: Sequence[ContextView], running: int, now_s: float) -> list[int]:
        return []

    def order_victims(self, running: Sequence[RunningView], now_s: float) -> list[int]:
        """The least decoded first, and of those the longest: SGLang's own order."""

        def key(i: int):
            turn = running[i]
            return -turn.priority, turn.output_tokens, turn.output_tokens - turn.context_tokens, turn.turn_id

        return sorted(range(len(running)), key=key)


class AdmissionPolicy(Protocol):
    """Which programs may start. Called by the gate on every event and, while something waits, once a second."""

    name: str

    def decide(
        self,
        admitted: Sequence[ProgramView],
        waiting: Sequence[ProgramView],
        pool: PoolView,
        now_s: float,
    ) -> AdmissionDecision:
        """Programs to pause (admitted, nothing in flight) and to admit (waiting)."""

    def footprint_tokens(self, program: ProgramView) -> int:
        """KV that the policy counts for a program."""

    def observe_pause(self, program: ProgramView, seconds: float) -> None:
        """Learn from a tool pause that ended: the program was silent for ``seconds``."""

    def observe_turn(self, turn: TurnOutcome, now_s: float) -> None:
        """Learn from a turn that was answered."""

    def observe_over(self, program: ProgramView, said: bool, now_s: float) -> None:
        """Learn from a program that is over: its client ``said`` so, or it was silent for too long."""


class BaseAdmissionPolicy:
    """Learns nothing, and counts what a program holds now."""

    def footprint_tokens(self, program: ProgramView) -> int:
        return program.context_tokens

    def observe_pause(self, program: ProgramView, seconds: float) -> None:
        pass

    def observe_turn(self, turn: TurnOutcome, now_s: float) -> None:
        pass

    def observe_over(self, program: ProgramView, said: bool, now_s: float) -> None:
        pass


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

    A policy with a parameter has a class attribute ``argument`` (what the parameter is called,
    ``"N"``) and a class method ``from_text(text)`` that makes it, or raises a ValueError; it is
    asked for as ``name:text``, and such a policy's own ``name`` says that again. With ``optional`` true
    the bare name is accepted too.

    Raises:
        ValueError: the name is taken.
    """
    return _register(_ADMISSION_POLICIES, "admission", factory)


def turn_policy(name: str) -> TurnPolicy:
    """A new policy object; ``mars:tail`` is the policy ``mars`` with the objective ``tail``.

    Raises:
        ValueError: unknown name, with a message that lists the known ones; or a parameter that is not accepted or not
            expected.
    """
    return _create(_TURN_POLICIES, "turn", name)


def admission_policy(name: str) -> AdmissionPolicy:
    """A new policy object; ``window:8`` is the policy ``window`` with the parameter 8.

    Raises:
        ValueError: unknown name, with a message that lists the known ones; or a parameter that is missing, not
            accepted or not expected.
    """
    return _create(_ADMISSION_POLICIES, "admission", name)


def turn_policy_names() -> list[str]:
    """Every name that :func:`turn_policy` takes, without parameters."""
    return sorted(_loaded(_TURN_POLICIES))


def admission_policy_names() -> list[str]:
    """Every name that :func:`admission_policy` takes, a parameter by what it is called: ``window:N``."""
    return _names(_loaded(_ADMISSION_POLICIES))


def is_admission_policy(name: str | None) -> bool:
    """Whether :func:`admission_policy` takes this name."""
    if name is None:
        return False
    try:
        admission_policy(name)
    except ValueError:
        return False
    return True


def _register(registry, kind, factory):
    name = factory.name
    if name in registry:
        raise ValueError(f"{kind} policy {name!r} is registered twice: {registry[name]!r} and {factory!r}")
    registry[name] = factory
    return factory


def _loaded(registry):
    # One line per policy file. Imported here and not above: the files import this module.
    import mars_sglang.core.admission.aimd
    import mars_sglang.core.admission.concur
    import mars_sglang.core.admission.footprint
    import mars_sglang.core.admission.mars
    import mars_sglang.core.admission.thunder
    import mars_sglang.core.admission.window
    import mars_sglang.core.policies.autellix
    import mars_sglang.core.policies.continuum
    import mars_sglang.core.policies.infercept
    import mars_sglang.core.policies.mars
    import mars_sglang.core.policies.mars_paper
    import mars_sglang.core.policies.mars_preview  # noqa: F401

    return registry


def _names(registry):
    return sorted(_form(name, factory) for name, factory in registry.items())


def _form(name, factory):
    if not hasattr(factory, "argument"):
        return name
    return f"{name}[:{factory.argument}]" if getattr(factory, "optional", False) else f"{name}:{factory.argument}"


def _create(registry, kind, asked):
    name, colon, text = asked.partition(":")
    factory = _loaded(registry).get(name)
    takes_text = hasattr(factory, "argument")
    if factory is None or (colon and not takes_text):
        raise ValueError(f"unknown {kind} policy {asked!r}; known: {', '.join(_names(registry))}")
    if takes_text and not (getattr(factory, "optional", False) and not colon):
        return factory.from_text(text)
    return factory()
