"""The benchmark of real agents: its options, and real runs where the agents are installed."""

import asyncio
import gzip
import json
import os
import re
import signal
import time

import pytest

from eval.agents import options as bench_options
from eval.agents.bench import main
from eval.agents.cores import Cores
from eval.agents.ends import add_turns, differences, ends
from eval.agents.fleet import Fleet, FleetOptions, Planned, draw
from eval.agents.session import Session
from eval.agents.sidecar import Sidecar
from eval.agents.task import write_scripts
from eval.agents.tasks import TASKS
from eval.replay.arrivals import Arrivals
from mars_sglang.core.dormancy import DORMANT_MAX_S
from tests.installed_agents import needs
from tests.serving import emulated_server

SMALL = [TASKS["durations"], TASKS["invoices"]]


def fleet_options(form: str, **more) -> FleetOptions:
    """All at once, on any core."""
    given = {"form": form, "arrivals": Arrivals(), "seed": 0, "alive": 8, "time_limit_s": 200.0}
    return FleetOptions(**given | {"cores": frozenset(os.sched_getaffinity(0))} | more)


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})


@pytest.mark.parametrize(
    ("engine", "tools", "expected"),
    [
        (None, None, Cores(frozenset({0, 1}), frozenset({2, 3}))),
        ("0", None, Cores(frozenset({0}), frozenset({1, 2, 3}))),
        (None, "0-2", Cores(frozenset({3}), frozenset({0, 1, 2}))),
        ("1,3", "0", Cores(frozenset({1, 3}), frozenset({0}))),
    ],
)
def test_engine_and_tools_share_no_core(four_cores, engine, tools, expected):
    assert Cores.split(engine, tools) == expected


@pytest.mark.parametrize(
    ("engine", "tools", "message"),
    [
        ("0-2", "2,3", r"--engine-cores 0-2 and --tool-cores 2,3 share core 2; accepted: lists with no core in common"),
        ("0", "7,9", r"--tool-cores 7,9: cores 7,9 cannot be used; this process may use cores 0,1,2,3"),
        ("0-3", None, r"--engine-cores 0,1,2,3 leaves no core for the other"),
        ("half", None, r"--engine-cores: cores are 'half'; accepted: numbers and ranges such as 0-3,8"),
    ],
)
def test_cores_that_cannot_be_are_named(four_cores, engine, tools, message):
    with pytest.raises(ValueError, match=message):
        Cores.split(engine, tools)


def test_one_core_is_too_few_for_engine_and_tools(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    with pytest.raises(ValueError, match=r"cores of their own; this process may use core 5 only"):
        Cores.split(None, None)


@pytest.fixture
def any_agent(monkeypatch, four_cores):
    """Options are read where no agent is installed, too."""
    for variable in ("MARS_AGENTS_MINI_PYTHON", "MARS_AGENTS_OPENHANDS_PYTHON"):
        monkeypatch.setenv(variable, os.path.realpath("/bin/sh"))


def test_defaults_compare_fcfs_and_mars_on_every_task(any_agent):
    options = bench_options.parse([])
    assert [choice.label for choice in options.policies] == ["fcfs", "mars"]
    assert options.tasks == tuple(TASKS)
    assert (options.agent, options.form, options.observe) == ("mini-swe-agent", "mini", "sidecar")
    assert bench_options.parse(["--agent", "openhands"]).kv_tokens > options.kv_tokens


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "durations,nothing"], r"--tasks: 'nothing' is unknown; known: .*durations"),
        (["--agent", "codex"], r"invalid choice: 'codex'"),
        (["--policies", "fcfs,fcfs"], r"'fcfs' is there twice"),
        (["--observe", "proxy"], r"invalid choice: 'proxy'"),
        (["--programs", "0"], r"accepted: a whole number, 1 or more"),
        (["--time-limit", "0"], r"accepted: a number above 0"),
        (["--tool-cores", "9"], r"core 9 cannot be used"),
    ],
)
def test_wrong_options_are_named_with_what_is_accepted(any_agent, capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_info:
        bench_options.parse(arguments)
    assert exit_info.value.code == 2
    assert re.search(message, capsys.readouterr().err)


def test_agent_that_is_not_installed_ends_the_benchmark_before_it_begins(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("MARS_AGENTS_MINI_PYTHON", str(tmp_path / "none"))
    with pytest.raises(SystemExit):
        bench_options.parse([])
    assert "install_agents.sh" in capsys.readouterr().err


def test_every_task_comes_once_before_one_comes_again():
    tasks = list(TASKS.values())
    plan = draw(tasks, 2 * len(tasks), seed=3)
    for half in (plan[: len(tasks)], plan[len(tasks) :]):
        assert {planned.task.name for planned in half} == set(TASKS)
    assert plan == draw(tasks, 2 * len(tasks), seed=3) != draw(tasks, 2 * len(tasks), seed=4)
    assert len({planned.id for planned in plan}) == len(plan)


def test_turns_that_a_driver_told_become_records(tmp_path):
    fleet = Fleet([Planned("000-durations", SMALL[0])], "http://127.0.0.1:9", fleet_options("mini"), tmp_path)
    fleet.began_s = 1000.0
    turn = {"id": "a", "sent_s": 1001.0, "ended_s": 1003.0, "prompt_tokens": 500, "cached_tokens": 0,
            "output_tokens": 20, "tool": "bash"}  # fmt: skip
    later = turn | {"id": "b", "sent_s": 1007.0, "ended_s": 1008.0, "prompt_tokens": 600, "cached_tokens": 400}
    fleet.turns = {"000-durations": [later, turn]}
    add_turns(fleet, {"a": {"prefill_finished_time": 1001.5}})

    [record] = fleet.records
    first, last = record.turns
    assert (first.sent_s, first.first_token_s, first.last_token_s, first.tool_s, first.tool) == (1, 1.5, 3, 4, "bash")
    # Without word of its first token, the turn's end is as much as is known.
    assert (last.first_token_s, last.tool) == (8, None)
    assert (first.recomputed_tokens, last.recomputed_tokens) == (0, 119)
    assert record.makespan_s == 8


def test_programs_that_did_not_end_alike_are_named():
    good = {"passed": True, "digest": "d"}
    runs = {
        "fcfs": {"programs": {"000-a": good, "001-b": good, "002-c": good}},
        "mars": {"programs": {"000-a": good, "001-b": good | {"passed": False}, "002-c": good | {"digest": "e"}}},
    }
    assert differences(runs) == [
        "001-b: the task's check fails under mars",
        "002-c: the final repository is not the same under fcfs, mars",
    ]
    assert differences({"fcfs": runs["fcfs"]}) == []


@pytest.mark.server
@needs("mini")
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="engine and tools need a core each")
def test_benchmark_of_mini_swe_agents_writes_what_the_other_one_does_and_how_tasks_ended(tmp_path, capsys):
    arguments = ["--policies", "mars", "--programs", "3", "--tasks", "durations,invoices", "--rate", "1", "--keep"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert "all 3 tasks pass, with the same final repositories, under mars" in capsys.readouterr().out

    names = {
        "report.md",
        "summary.json",
        "makespan.png",
        "timeline.png",
        "turns-mars.jsonl.gz",
        "samples-mars.jsonl.gz",
    }
    assert names <= {path.name for path in tmp_path.iterdir()}
    summary = json.loads((tmp_path / "summary.json").read_text())
    [run] = summary["runs"]
    steps = sum(len(TASKS[program["task"]].steps) for program in run["tasks"]["programs"].values())
    assert (run["completed"], run["failed"], run["turns"]) == (3, 0, steps)
    assert (run["tasks"]["passed"], run["tasks"]["checked"]) == (3, 3)
    assert run["tasks"]["recognised_by"] == {"continuation": 3}
    assert run["token_error"] is None
    assert run["cached_tokens"] > 0
    for program, ended in run["tasks"]["programs"].items():
        assert TASKS[ended["task"]].digest(tmp_path / "programs-mars" / program / "repository") == ended["digest"]
    with gzip.open(tmp_path / "turns-mars.jsonl.gz", "rt") as lines:
        turns = [json.loads(line) for line in lines]
    # What an answer takes beyond its first token is what the server exported of it.
    assert all(turn["sent_s"] < turn["first_token_s"] < turn["last_token_s"] for turn in turns)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Two programs at a time, whose places are soon given up: computing such a context again costs little."""
    scripts = tmp_path_factory.mktemp("scripts")
    write_scripts({task.name: task for task in SMALL}, scripts)
    flags = ("--scripts", str(scripts), "--scheduler-policy", "mars", "--mars-admission", "window:2")
    with emulated_server(tmp_path_factory.mktemp("server"), *flags, "--max-total-tokens", "40000", speed=4) as server:
        yield server


def wait_for(look, timeout_s: float = 120.0):
    """What ``look`` gives, once it gives something."""
    deadline = time.monotonic() + timeout_s
    while not (seen := look()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)
    return seen


@pytest.mark.server
@pytest.mark.parametrize("form", [pytest.param(form, marks=needs(form)) for form in ("mini", "openhands")])
def test_agents_end_alike_and_their_tool_calls_are_seen(server, tmp_path, form):
    plan = draw(SMALL, 3, seed=0)
    stream = server.get("/mars/state")["stream"]["address"]

    async def run() -> tuple[Fleet, list[dict]]:
        cores = frozenset(os.sched_getaffinity(0))
        async with Sidecar(stream, cores, tmp_path / "tools", tmp_path / "sidecar.log") as sidecar:
            fleet = Fleet(plan, server.url, fleet_options(form, reports_to=sidecar.tools.text), tmp_path)
            running = asyncio.create_task(fleet.run())
            seen = []
            while not running.done():
                seen += await asyncio.to_thread(lambda: server.get("/mars/state")["executors"])
                await asyncio.sleep(0.2)
            await running
            return fleet, seen

    fleet, seen = asyncio.run(run())
    known = {program["program"].partition("/")[2] for program in server.get("/mars/state?programs=1000")["programs"]}
    ids = [planned.id for planned in plan] if form == "mini" else [r["conversation"] for r in fleet.reports.values()]
    assert set(ids) <= known
    add_turns(fleet, {})
    ended = ends(plan, fleet, tmp_path)
    assert ended["passed"] == 3, [(record.failure, record.detail) for record in fleet.records]
    assert all(record.completed for record in fleet.records)
    digests = {(program["task"], program["digest"]) for program in ended["programs"].values()}
    assert len(digests) == 2
    assert {executor["executor"] for executor in seen} == {"agents"}
    assert max(executor["active"] for executor in seen) >= 1


@pytest.mark.server
@needs("mini")
def test_killed_agent_frees_its_place_for_one_that_waits_and_harms_no_other(server, tmp_path):
    task = TASKS["durations"]
    known = {program["program"] for program in server.get("/mars/state?programs=1000")["programs"]}

    def new() -> list[str]:
        programs = server.get("/mars/state?programs=1000")["programs"]
        return [program["program"] for program in programs if program["program"] not in known]

    with Session(task, "mini", server.url, tmp_path / "victim" / "repository") as victim:
        [program] = wait_for(new)
        with (
            Session(task, "mini", server.url, tmp_path / "other" / "repository") as other,
            Session(task, "mini", server.url, tmp_path / "waiting" / "repository") as waiting,
        ):
            wait_for(lambda: len(victim.turns) >= 2)
            os.killpg(victim.pid, signal.SIGKILL)
            # Each gives up its place only by being silent, for no agent says that it is over.
            assert other.wait().passed
            assert waiting.wait().passed
    state = server.get("/mars/state?programs=1000")
    freed = [
        d for d in state["gate"]["decisions"] if d["program"] == program and d["decision"] in ("paused", "released")
    ]
    [seen] = [shown for shown in state["programs"] if shown["program"] == program]
    assert freed
    assert freed[-1]["time_s"] - seen["since_s"] <= DORMANT_MAX_S
    assert seen["admission"] != "admitted"
