"""What a turn finds in the cache of the context that its program's last turn left there."""

from typing import NamedTuple

WARM, PARTIAL, COLD = "warm", "partial", "cold"
#: All of the context that a turn continues was in the cache; some of it; none but a prefix that others have too.
OUTCOMES = (WARM, PARTIAL, COLD)


class Resumption(NamedTuple):
    """How a turn that continues its program's context began. Tokens are of that context."""

    outcome: str
    """One of :data:`OUTCOMES`."""
    reused_tokens: int
    """Found in the cache, in the host tier too."""
    recomputed_tokens: int
    """Computed again."""


def resumption(
    *,
    left_tokens: int,
    retained_tokens: int,
    shared_tokens: int,
    prompt_tokens: int,
    found_tokens: int,
    page_tokens: int,
) -> Resumption | None:
    """Judge the start of a turn's prefill; None where it continues nothing of its program's own.

    The last context itself is not compared with the prompt, so what of it the prompt continues is as much as it can be:
    whole pages, without the prompt's last token, which is always computed. Where the cache holds more of the context
    than was found for the prompt, the prompt leaves the context there (it was compacted, say), and continues what was
    found.

    Args:
        left_tokens: what the last turn left in the cache.
        retained_tokens: of that, what is still in the GPU's pool.
        shared_tokens: of that, what was in the cache before the program's first turn.
        prompt_tokens: the turn's whole prompt.
        found_tokens: of the prompt, what was in the cache.
        page_tokens: KV tokens per page.
    """
    continued = min(left_tokens, (prompt_tokens - 1) // page_tokens * page_tokens)
    if found_tokens < retained_tokens:
        continued = min(continued, found_tokens)
    if continued <= shared_tokens:
        return None
    reused = min(found_tokens, continued)
    outcome = WARM if reused == continued else PARTIAL if reused > shared_tokens else COLD
    return Resumption(outcome, reused, continued - reused)
