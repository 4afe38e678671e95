"""Rollouts in ``sglang.Engine``, without HTTP and with an emulated GPU: ids, turns, the cache and admission."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

pytest.importorskip("sglang")

from eval.agents import rollouts

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]

#: The pool holds all contexts of the first plan, and a tenth of those of the second.
POOL_TOKENS = 4000
FEW = rollouts.Plan(groups=2, group_size=2, turns=3, prompt_tokens=500, answer_tokens=16, result_tokens=50, tool_s=1.0)
MANY = rollouts.Plan(
    seed=1, groups=32, group_size=1, turns=3, prompt_tokens=1200, answer_tokens=16, result_tokens=50, tool_s=1.0
)

SCRIPT = """
import json, sys
from dataclasses import asdict
from eval.agents import rollouts
from mars_sglang.engine.state_page import state_of

def run(engine, plan):
    done = [asdict(each) for each in engine.loop.run_until_complete(rollouts.roll_out(engine, plan))]
    state = state_of(engine.tokenizer_manager.mars_turns, 1000)
    return {"rollouts": done, "programs": state["programs"], "gate": state["gate"]}

if __name__ == "__main__":
    arguments = rollouts.emulated("l40s-llama-3.1-8b", 8.0, int(sys.argv[1]))
    few, many = (rollouts.Plan(**plan) for plan in json.loads(sys.argv[2]))
    import sglang

    # Under the default one few programs wait: over turns that keep contexts it gives away the memory many times.
    engine = sglang.Engine(scheduler_policy="mars", mars_admission="footprint", **arguments)
    told = {"few": run(engine, few)}
    engine.flush_cache()
    told["many"] = run(engine, many)

    ids, told["without an id"] = list(range(1000, 1600)), []
    for _ in range(2):
        custom = {"return_meta_info": True}
        answer = engine.generate(input_ids=ids, sampling_params={"max_new_tokens": 4, "custom_params": custom})
        told["without an id"].append(answer["meta_info"]["mars"])
        ids = ids + answer["output_ids"] + list(range(1000, 1010))

    engine.generate("an agent says hello", {"max_new_tokens": 4}, session_id="closed")
    engine.close_session("closed")
    told["closed has a place"] = engine.tokenizer_manager.mars_turns.gate.has_place("closed")
    try:
        engine.generate("an agent says hello", {"max_new_tokens": 4}, session_id="x" * 300)
    except ValueError as error:
        told["refused"] = str(error)
    print(json.dumps(told))
    engine.shutdown()
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    script = tmp_path_factory.mktemp("rollouts") / "script.py"
    script.write_text(SCRIPT)
    plans = json.dumps([asdict(plan) for plan in (FEW, MANY)])
    run = subprocess.run(
        [sys.executable, str(script), str(POOL_TOKENS), plans],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize(("name", "plan"), [("few", FEW), ("many", MANY)])
def test_rollouts_started_at_once_all_end_and_are_known_with_their_turns(told, name, plan):
    done = told[name]["rollouts"]
    assert len(done) == plan.groups * plan.group_size
    assert {each["turns"] for each in done} == {plan.turns}
    known = {program["program"]: program for program in told[name]["programs"]}
    for each in done:
        program = known[each["program"]]
        assert program["recognised_by"] == "body field session_id"
        assert program["turns"] == plan.turns


def test_continuations_find_all_that_their_last_turn_left_in_the_cache(told):
    for each in told["few"]["rollouts"]:
        assert each["kept_tokens"] == each["context_tokens"] > 0


def test_rollouts_that_the_pool_has_no_room_for_wait_for_admission_from_their_first_turn_on(told):
    gate = told["many"]["gate"]
    assert gate["unasked"] == 0
    assert any(each["decision"] == "admitted" and each["waited_s"] > 0 for each in gate["decisions"])


def test_a_rollout_without_an_id_is_recognised_by_what_it_continues(told):
    first, second = told["without an id"]
    assert first["program"] == second["program"]
    assert first["program"].startswith("continuation/")
    assert (first["continuation"], second["continuation"]) == (False, True)


def test_a_closed_session_has_given_up_its_place(told):
    assert told["closed has a place"] is False


def test_an_id_that_cannot_be_used_is_an_error_that_says_what_is_accepted(told):
    assert "1 to 256 printable characters" in told["refused"]
