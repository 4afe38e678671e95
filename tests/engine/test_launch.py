"""The ways to start it: ``sglang serve``, ``Engine`` and two ranks; and what is left when it is off."""

import concurrent.futures
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sglang")

from mars_sglang.core.cost_model import CostModel
from mars_sglang.emulation.launch import server_arguments, server_environment
from mars_sglang.emulation.model_folder import model_folder
from mars_sglang.emulation.profiles import load_profile
from tests.serving import emulated_server

pytestmark = pytest.mark.server

PROFILE = "l40s-llama-3.1-8b"

ENGINE = """
import json, sys
import sglang

def mars_state(engine):
    return engine.get_server_info()["internal_states"][0].get("mars")

if __name__ == "__main__":
    folder = sys.argv[1]
    common = dict(model_path=folder, load_format="dummy", device="cpu", max_total_tokens=8000,
                  max_running_requests=8, disable_overlap_schedule=True, log_level="error")
    try:
        sglang.Engine(scheduler_policy="nope", **common)
    except ValueError as error:
        print("REFUSED", error)
    engine = sglang.Engine(scheduler_policy="mars", **common)
    sampling = {"max_new_tokens": 8, "ignore_eos": True}
    for _ in range(2):
        outputs = engine.generate(["hello there", "good bye"], sampling, session_id=None)
        one = engine.generate("the agent says hello", sampling, session_id="rollout-1")
    print("OUTPUTS", len(outputs), one["meta_info"]["completion_tokens"])
    print("STATE", json.dumps(mars_state(engine)))
    engine.shutdown()
    engine = sglang.Engine(schedule_policy="lpm", **common)
    engine.generate("hello", sampling, session_id="rollout-1")
    print("AFTER", json.dumps(mars_state(engine)))
    engine.shutdown()
"""


def emulated_environment() -> dict[str, str]:
    return server_environment(os.environ, PROFILE, 8.0)


def test_engine_takes_the_policy_and_one_without_it_is_plain(tmp_path):
    script = tmp_path / "rollouts.py"
    script.write_text(ENGINE)
    folder = str(model_folder(load_profile(PROFILE)))
    run = subprocess.run(
        [sys.executable, str(script), folder], env=emulated_environment(), capture_output=True, text=True, timeout=400
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    said = dict(line.split(" ", 1) for line in run.stdout.splitlines() if " " in line)
    assert "'nope' is unknown; known: autellix, " in said["REFUSED"]
    assert said["OUTPUTS"] == "2 8"
    state = json.loads(said["STATE"])
    assert state["turn_policy"] == "mars" and state["turns"] == 2 and state["retained_programs"] == 1
    assert said["AFTER"] == "null"


def test_sglang_serve_takes_the_flag(tmp_path):
    profile = load_profile(PROFILE)
    arguments = server_arguments(profile, CostModel(profile).kv_capacity_tokens, str(model_folder(profile)))
    run = subprocess.run(
        [str(Path(sys.executable).with_name("sglang")), "serve", *arguments, "--scheduler-policy", "nope"],
        env=emulated_environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 2
    assert "mars-sglang: error: --scheduler-policy 'nope' is unknown; known: autellix, " in run.stderr


def test_without_our_flags_the_scheduler_is_sglangs(tmp_path):
    with emulated_server(tmp_path, "--schedule-policy", "lpm", profile=PROFILE) as server:
        assert server.chat("hello", program_id="ignored")["usage"]["completion_tokens"] == 8
        assert "mars" not in server.state()
        log = server.log.read_text(errors="replace")
        assert "mars_sglang.engine" not in log and "MarsScheduler" not in log


@pytest.mark.parametrize(
    ("size", "pool_tokens"), [("--tp-size", 6000), ("--dp-size", 12000)], ids=["tensor-parallel", "data-parallel"]
)
def test_two_ranks(tmp_path, size, pool_tokens):
    """Tensor parallel: SGLang's own checker compares what the ranks decided and ends the server where they differ."""
    flags = ("--scheduler-policy", "mars", size, "2", "--max-total-tokens", "6000")
    environment = {"SGLANG_CPU_OMP_THREADS_BIND": "0|1", "SGLANG_ENABLE_RANK_CONSENSUS_CHECKER": "1"}
    with emulated_server(tmp_path, *flags, profile=PROFILE, environment=environment) as server:

        def turn(i: int) -> int:
            content = f"task {i % 6} " + "word " * (600 + 200 * (i % 6))
            return server.chat(content, 12, program_id=f"p{i % 6}")["usage"]["completion_tokens"]

        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            assert list(pool.map(turn, range(30))) == [12] * 30
        states = server.get("/server_info")["internal_states"]
        assert sum(state["mars"]["turns"] for state in states) == 30
        assert f"admission mars over {pool_tokens} KV tokens" in server.log.read_text(errors="replace")
