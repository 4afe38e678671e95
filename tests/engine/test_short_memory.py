"""Baselines that pin KV and cut prefills short, in the real server with too little memory for all who come.

SGLang ends its process when a prefill that has begun finds no memory for its next chunk, and when its books do not
add up, which it checks here in every pass.
"""

import concurrent.futures

import pytest

pytest.importorskip("sglang")

from tests.engine.test_server import Agent
from tests.serving import emulated_server

pytestmark = pytest.mark.server

POOL_TOKENS = 8000
AGENTS, TURNS = 14, 4


@pytest.mark.parametrize("policy", ["continuum", "mars-preview"])
def test_every_agent_is_served_to_its_end_and_the_books_add_up(policy, tmp_path):
    flags = ["--scheduler-policy", policy, "--max-total-tokens", str(POOL_TOKENS), "--chunked-prefill-size", "512"]
    with emulated_server(tmp_path, *flags) as server:
        # 14 contexts of 300 to 1,600 tokens, which grow: twice what fits, and several chunks each.
        agents = [Agent(server, f"agent-{i}", 300 + 100 * i, seed=i) for i in range(AGENTS)]

        def play(agent: Agent) -> int:
            return sum(agent.turn(max_tokens=120)["completion_tokens"] for _ in range(TURNS))

        with concurrent.futures.ThreadPoolExecutor(AGENTS) as pool:
            assert list(pool.map(play, agents)) == [120 * TURNS] * AGENTS
        state = server.state()["mars"]
        assert state["turn_policy"] == policy and state["turns"] == AGENTS * TURNS
        # What was pinned is let go once nothing runs.
        server.flush()
