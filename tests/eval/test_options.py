"""What the command line accepts, and how it says no."""

import pytest

from eval import defaults
from eval.options import PolicyChoice, parse
from eval.replay.arrivals import Arrivals


def test_defaults():
    options = parse([])
    assert [p.label for p in options.policies] == ["fcfs", "lpm", "mars"]
    assert options.arrivals == Arrivals(rate=defaults.RATE)
    assert (options.profile, options.speed, options.programs) == ("l40s-llama-3.1-8b", 10.0, 48)
    assert options.max_turns == defaults.MAX_TURNS and parse(["--max-turns", "0"]).max_turns is None


def test_policies_with_their_own_admission():
    options = parse(["--policies", "fcfs,fcfs+mars,mars+off", "--admission", "off"])
    assert options.policies == (PolicyChoice("fcfs", "off"), PolicyChoice("fcfs", "mars"), PolicyChoice("mars", "off"))
    assert options.policies[1].server_args == ["--scheduler-policy", "fcfs", "--mars-admission", "mars"]
    assert PolicyChoice("lpm").server_args == ["--scheduler-policy", "lpm"]


def test_every_admission_policy_may_be_a_column():
    options = parse(["--policies", "fcfs+thunder,fcfs+window:8,lpm", "--admission", "concur"])
    assert [p.label for p in options.policies] == ["fcfs+thunder", "fcfs+window:8", "lpm+concur"]
    assert options.policies[1].server_args[-2:] == ["--mars-admission", "window:8"]


def test_arrivals_exclude_each_other():
    assert parse(["--burst"]).arrivals == Arrivals()
    assert parse(["--concurrency", "3"]).arrivals == Arrivals(concurrency=3)
    with pytest.raises(SystemExit):
        parse(["--burst", "--rate", "1"])


def test_a_running_server_is_one_run_at_its_own_speed():
    options = parse(["--base-url", "http://h:1"])
    assert (len(options.policies), options.policies[0].named, options.speed) == (1, False, None)
    assert parse(["--base-url", "u", "--policies", "lpm"]).policies == (PolicyChoice("lpm"),)


def test_server_args_may_be_one_flag():
    assert parse(["--server-args", "--enable-hierarchical-cache"]).server_args == ("--enable-hierarchical-cache",)
    assert parse(["--server-args", "--a 1 --b 'x y'"]).server_args == ("--a", "1", "--b", "x y")
    assert parse(["--server-args=--a", "--burst"]).server_args == ("--a",)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--programs", "0"], "whole number, 1 or more"),
        (["--programs", "x"], "'x'"),
        (["--rate", "-1"], "above 0"),
        (["--rate", "nan"], "above 0"),
        (["--speed", "0"], "above 0"),
        (["--max-pause", "-1"], "0 or more"),
        (["--policies", "fcfs,,mars"], "accepted"),
        (["--policies", "fcfs+fast"], "or +footprint or +mars[:OBJECTIVE] or +thunder or +window:N"),
        (["--policies", "fcfs+window:0"], "'fcfs+window:0'; accepted: "),
        (["--policies", "fcfs,fcfs"], "twice"),
        (["--policies", "../up"], "no name"),
        (["--admission", "no"], "'no'; accepted: off, aimd, "),
        (["--admission", "window"], "'window'; accepted: "),
        (["--base-url", "u", "--policies", "fcfs,lpm"], "one run"),
        (["--base-url", "u", "--server-args", "--x"], "already runs"),
        (["--server-args", "'"], "quotation"),
        (["--polices", "fcfs"], "--polices"),
    ],
)
def test_what_cannot_be_is_named(argv, message, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(argv)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
