"""Two data-parallel ranks of a real server: a program's turns go where its KV is."""

from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("sglang")

from tests.serving import emulated_server

pytestmark = pytest.mark.server

PROGRAMS, TURNS = 8, 4


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    flags = ("--scheduler-policy", "mars", "--dp-size", "2", "--max-total-tokens", "30000")
    environment = {"SGLANG_CPU_OMP_THREADS_BIND": "0|1"}
    with emulated_server(tmp_path_factory.mktemp("placement"), *flags, environment=environment) as started:
        yield started


class Agent:
    """A program with its conversation."""

    def __init__(self, server, name: str, words: int):
        self._server, self._name = server, name
        # Different from the first word on: what is cached is its own.
        self._messages = [{"role": "system", "content": f"{name} " + f"{name}word " * words}]
        self.contexts = [0]

    def turn(self, **body) -> int:
        """Cached tokens of the next turn."""
        self._messages.append({"role": "user", "content": "and next"})
        answer = self._server.post(
            "/v1/chat/completions",
            {"model": "m", "messages": self._messages, "max_tokens": 16, "ignore_eos": True} | body,
            {"x-session-id": self._name},
        )
        self._messages.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
        usage = answer["usage"]
        self.contexts.append(usage["total_tokens"])
        return (usage["prompt_tokens_details"] or {}).get("cached_tokens", 0)


def turns_by_rank(server) -> list[int]:
    # The ranks answer in any order.
    states = [state["mars"] for state in server.get("/server_info")["internal_states"]]
    return [state.get("turns", 0) for state in sorted(states, key=lambda state: state["dp_rank"])]


def test_every_continuation_finds_the_context_of_its_program(server):
    agents = [Agent(server, f"agent{i}", 200) for i in range(PROGRAMS)]
    before = turns_by_rank(server)
    for number in range(TURNS):
        # In another order each time: taking ranks in turn would send half of them to the wrong one.
        for agent in agents[number:] + agents[:number]:
            cached = agent.turn()
            # The last token of an answer has no KV.
            assert number == 0 or cached >= agent.contexts[-2] - 1
    # Contexts of one length, so as many on either rank.
    after = turns_by_rank(server)
    assert [a - b for a, b in zip(after, before, strict=True)] == [PROGRAMS * TURNS // 2] * 2
    assert server.get("/mars/state")["placement"]["moves"] == 0


def test_programs_that_ask_at_once_are_spread_and_find_their_contexts(server):
    agents = [Agent(server, f"crowd{i}", 200) for i in range(PROGRAMS)]
    with ThreadPoolExecutor(PROGRAMS) as pool:
        for number in range(TURNS):
            before = turns_by_rank(server)
            cached = list(pool.map(Agent.turn, agents))
            assert min(a - b for a, b in zip(turns_by_rank(server), before, strict=True)) > 0
            assert number == 0 or all(
                tokens >= agent.contexts[-2] - 1 for tokens, agent in zip(cached, agents, strict=True)
            )


def test_the_rank_that_a_client_names_wins_and_the_program_stays_there(server):
    agent = Agent(server, "pinned", 300)
    agent.turn(routed_dp_rank=1)
    before = turns_by_rank(server)
    assert agent.turn(routed_dp_rank=0) < agent.contexts[-2] // 2
    assert [a - b for a, b in zip(turns_by_rank(server), before, strict=True)] == [1, 0]
    assert agent.turn() >= agent.contexts[-2] - 1
    assert [a - b for a, b in zip(turns_by_rank(server), before, strict=True)] == [2, 0]


def test_a_turn_is_no_work_for_its_rank_once_the_engine_has_said_its_first_token(server):
    def load_tokens() -> int:
        return sum(server.get("/mars/state?programs=0")["placement"]["load_tokens"])

    before, seen = load_tokens(), set()
    body = {"model": "m", "messages": [{"role": "user", "content": "slow " * 300}], "max_tokens": 1000}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(
            server.post, "/v1/chat/completions", body | {"ignore_eos": True}, {"x-session-id": "not streamed"}
        )
        while not answer.done():
            seen.add(load_tokens() - before)
    usage = answer.result()["usage"]
    # Its context and as much to compute, then its context, then that with its answer.
    assert usage["prompt_tokens"] in seen
    assert load_tokens() - before == usage["total_tokens"]


def test_the_server_knows_that_both_ranks_are_ours_and_has_the_memory_of_both(server):
    gate = server.get("/mars/state")["gate"]
    assert gate["capacity_tokens"] == 60_000
    placement = server.get("/mars/state")["placement"]
    assert len(placement["programs"]) == len(placement["load_tokens"]) == 2
