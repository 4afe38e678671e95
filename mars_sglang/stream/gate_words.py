"""What is said of an admission gate's decision: one place for those who decide and those who decide again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mars_sglang.stream.events import AdmissionTicket, AdmissionWindow

if TYPE_CHECKING:
    from mars_sglang.core.gate import Gate, GateDecision


def decided(gate: Gate, decision: GateDecision, now_s: float) -> tuple[AdmissionTicket | AdmissionWindow, ...]:
    """What a server says of one run of its gate's policy, right after it and in this order."""
    tickets = [AdmissionTicket(time_s=now_s, program=program, decision="paused") for program in decision.paused]
    for program, waited_s in decision.admitted:
        known = gate.programs.get(program)
        kind = "resumed" if known is not None and known.turns else "admitted"
        tickets.append(AdmissionTicket(time_s=now_s, program=program, decision=kind, waited_s=waited_s))
    counts = gate.snapshot()
    window = AdmissionWindow(
        time_s=now_s,
        policy=gate.policy.name,
        admitted=counts.admitted,
        waiting=counts.waiting,
        paused=counts.paused,
        footprint_tokens=counts.footprint_tokens,
        anonymous_tokens=counts.anonymous_tokens,
        capacity_tokens=counts.capacity_tokens,
    )
    return (*tickets, window)
