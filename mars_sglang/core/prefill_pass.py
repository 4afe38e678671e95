"""A pass over the waiting turns in search of some to prefill: what the engine and the simulator have in common."""

#: Turns that are tried and found not to fit in one pass. Each costs a match of its prefix.
MAX_MISSES_PER_PASS = 8

#: Tokens of a prefix that is being computed for another turn that are worth waiting for: the turn's own prefill is then
#: so much shorter, and has a step of its own, which costs about as much.
SHARED_TOKENS = 256
