"""Who gives up a place because of silence."""

from mars_sglang.core.admission.dormancy import DormancyAdmission
from mars_sglang.core.views import PoolView
from tests.core.admission.programs import in_tool

#: To compute 45,000 tokens takes 9 s, so they are held for 100,000 / 45,000 x 9 = 20 s until pauses were seen.
POOL = PoolView(100_000, 0, prefill_token_s=1e-4)


def program(name="p", idle_since_s=0.0):
    return in_tool(name, 45_000, idle_since_s=idle_since_s)._replace(first_tokens=1000)


def test_the_longest_silent_goes_first_and_one_at_work_never():
    silent = [program("b", idle_since_s=50.0), program("a", idle_since_s=20.0), program("c", idle_since_s=99.0)]
    busy = program("d")._replace(in_flight=1, idle_since_s=None)
    dormant = DormancyAdmission().dormant([*silent, busy], POOL, 100.0)
    assert [p.program for p in dormant] == ["a", "b"]


class Recorder(DormancyAdmission):
    def __init__(self):
        super().__init__()
        self.heard: list[str] = []

    def observe_silence(self, program):
        self.heard.append(program.program)


def test_a_policy_hears_once_of_a_program_that_outlasts_its_limit_until_it_comes_back():
    policy, silent = Recorder(), program("p")
    for now_s in (10.0, 30.0, 40.0):
        policy.dormant([silent], POOL, now_s)
    assert policy.heard == ["p"]
    policy.observe_pause(silent, 50.0)
    policy.dormant([silent], POOL, 100.0)
    assert policy.heard == ["p", "p"]
