"""Time left, from what is done."""

from eval.experiment.remaining import Left, Pace
from tests.eval.experiment.fake_engine import small


def alone(_):
    return 1


def test_the_nearest_kind_counts():
    fcfs, lpm = (next(c for c in small().cells if c.setup.label == label) for label in ("fcfs", "lpm"))
    other_seed = next(c for c in small().cells if c.setup.label == "fcfs" and c.seed == 1)
    pace = Pace()
    pace.done(fcfs, 10.0)
    assert pace.left([other_seed], alone) == Left(10.0, 0)
    # Of lpm nothing is known but what the engine takes at this point.
    assert pace.left([lpm], alone) == Left(10.0, 0)
    pace.done(lpm, 30.0)
    assert pace.left([other_seed, lpm], alone) == Left(40.0, 0)
    assert pace.left([other_seed, lpm], lambda _: 2) == Left(20.0, 0)


def test_another_engine_tells_nothing_and_it_says_so():
    simulated = small().cells[0]
    emulated = small(engines="emulated").cells[0]
    pace = Pace()
    assert str(pace.left([simulated], alone)) == "time left unknown: 1 of a kind not seen yet"
    pace.done(simulated, 120.0)
    assert str(pace.left([simulated, emulated], alone)) == "at least 2 min left, and 1 of a kind not seen yet"
    assert str(pace.left([simulated], alone)) == "2 min left"
