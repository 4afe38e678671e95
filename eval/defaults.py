"""Every default of the benchmark, in one place, so that a tuned value is changed once."""

WORKLOAD = "swebench"
POLICIES = "fcfs,lpm,mars"
PROGRAMS = 48
PROFILE = "l40s-llama-3.1-8b"
SPEED = 10.0
"""Emulated seconds per real second, for servers that the benchmark starts."""

RATE = 0.2
"""Programs per emulated second, where none of --rate, --concurrency and --burst is given."""

TOOL_SLOTS = 16
MAX_PAUSE_S = 60.0
MAX_TURNS = 30
"""Turns after which a program of the default benchmark ends: three policies then take under 15 minutes on
two cores. Two thirds of the SWE-bench programs are longer; --max-turns 0 replays them whole."""
SEED = 0
OUT = "bench-out"
GENERATED_PROGRAMS = 400
"""How many programs `--workload generated` draws from."""

PORTS = range(32000, 32100)
"""Loopback ports tried, in order, for a server that the benchmark starts."""

INTERRUPTED_STATUS = 130
"""Exit status after Ctrl-C, as shells count it."""

STREAM_INTERVAL = 16
"""Tokens per streamed message, after the first. At one token per message the HTTP process of the
server spends more of two cores on messages than the emulated GPU leaves it; TTFT does not change."""

START_TIMEOUT_S = 300.0
"""Real seconds until a started server must be healthy. A model load from a cold disk takes longer
than an emulated start (30 s), so this is generous."""

STOP_TIMEOUT_S = 20.0
"""Real seconds between asking a server to stop and killing its process group."""

REQUEST_TIMEOUT_S = 4 * 3600.0
"""Emulated seconds after which a turn counts as failed: longer than any queue that still drains, so
that a server that lost a request ends the program, not the benchmark."""

SAMPLE_EVERY_S = 1.0
"""Real seconds between two looks at the server's load."""

TOKEN_TOLERANCE = 0.02
"""A prompt is as traced when its length is within this share of the traced one."""

EMULATION_ERROR_LIMIT = 0.05
"""Above this relative error of emulated step times the report says so."""
