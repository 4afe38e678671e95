"""A simulation that runs for seconds each time: measure, change the method, measure again at several step sizes."""

from eval.agents.task import PYTEST, Create, Finish, Replace, Run, Step, Task, View
from eval.agents.tasks.repository import python_files

_BODIES = '''\
"""Bodies that attract each other, in a plane; mass, position and speed in units in which gravity is 1."""


class Bodies:
    def __init__(self, count):
        """A heavy one in the middle, and others on circles around it."""
        self.mass = [1.0] + [1e-5 * (i + 1) for i in range(count)]
        self.x = [0.0] + [1.0 + 0.5 * i for i in range(count)]
        self.y = [0.0] * (count + 1)
        self.vx = [0.0] * (count + 1)
        self.vy = [0.0] + [(1.0 + 0.5 * i) ** -0.5 for i in range(count)]

    def pull(self):
        """What speeds change by, each: two lists."""
        ax, ay = [0.0] * len(self.x), [0.0] * len(self.x)
        for i in range(len(self.x)):
            for j in range(len(self.x)):
                if i != j:
                    dx, dy = self.x[j] - self.x[i], self.y[j] - self.y[i]
                    factor = self.mass[j] * (dx * dx + dy * dy) ** -1.5
                    ax[i] += dx * factor
                    ay[i] += dy * factor
        return ax, ay

    def energy(self):
        total = 0.0
        for i in range(len(self.x)):
            total += self.mass[i] * (self.vx[i] ** 2 + self.vy[i] ** 2) / 2
            for j in range(i):
                dx, dy = self.x[j] - self.x[i], self.y[j] - self.y[i]
                total -= self.mass[i] * self.mass[j] * (dx * dx + dy * dy) ** -0.5
        return total
'''

_METHOD = '''\
"""How bodies move on by one step of time."""


def step(bodies, dt):
    ax, ay = bodies.pull()
    for i in range(len(bodies.x)):
        bodies.x[i] += dt * bodies.vx[i]
        bodies.y[i] += dt * bodies.vy[i]
        bodies.vx[i] += dt * ax[i]
        bodies.vy[i] += dt * ay[i]
'''

_EULER = _METHOD[_METHOD.index("    ax, ay") :]
_KICK_DRIFT = """\
    # Speeds first, places with the new speeds: the error of the energy swings and does not grow.
    ax, ay = bodies.pull()
    for i in range(len(bodies.x)):
        bodies.vx[i] += dt * ax[i]
        bodies.vy[i] += dt * ay[i]
        bodies.x[i] += dt * bodies.vx[i]
        bodies.y[i] += dt * bodies.vy[i]
"""
_LEAPFROG = """\
    # Half of the change of speed before the move and half after it: the error falls with the square of dt.
    kick(bodies, dt / 2)
    for i in range(len(bodies.x)):
        bodies.x[i] += dt * bodies.vx[i]
        bodies.y[i] += dt * bodies.vy[i]
    kick(bodies, dt / 2)


def kick(bodies, dt):
    ax, ay = bodies.pull()
    for i in range(len(bodies.x)):
        bodies.vx[i] += dt * ax[i]
        bodies.vy[i] += dt * ay[i]
"""

_PAIRS_OLD = _BODIES[
    _BODIES.index("            for j in range(len(self.x)):\n") : _BODIES.index("        return ax, ay")
]
_PAIRS_NEW = """\
            for j in range(i):
                dx, dy = self.x[j] - self.x[i], self.y[j] - self.y[i]
                factor = (dx * dx + dy * dy) ** -1.5
                ax[i] += dx * factor * self.mass[j]
                ay[i] += dy * factor * self.mass[j]
                ax[j] -= dx * factor * self.mass[i]
                ay[j] -= dy * factor * self.mass[i]
"""

_TEST = """\
import pytest

from orbits.bodies import Bodies
from orbits.method import step


def drift(count, dt, steps):
    bodies = Bodies(count)
    start = bodies.energy()
    for _ in range(steps):
        step(bodies, dt)
    return abs(bodies.energy() / start - 1)


@pytest.mark.parametrize("count", [1, 3, 6])
def test_energy_stays(count):
    assert drift(count, 0.01, 40000) < 1e-6


def test_error_falls_with_the_square_of_the_step():
    assert drift(2, 0.02, 50) > 3 * drift(2, 0.01, 100) > 9 * drift(2, 0.005, 200) > 0


def test_nothing_pulls_the_whole_away():
    bodies = Bodies(5)
    ax, ay = bodies.pull()
    assert sum(m * a for m, a in zip(bodies.mass, ax)) == pytest.approx(0, abs=1e-15)
    assert sum(m * a for m, a in zip(bodies.mass, ay)) == pytest.approx(0, abs=1e-15)
"""

_RUN = '''\
"""Prints how the energy of the bodies changes: `python run.py BODIES DT STEPS`."""

import sys

from orbits.bodies import Bodies
from orbits.method import step

count, dt, steps = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
bodies = Bodies(count)
start = bodies.energy()
print("step  time  energy / energy at the start - 1")
for number in range(1, steps + 1):
    step(bodies, dt)
    if number % (steps // 40) == 0:
        print(f"{number:6d}  {number * dt:8.2f}  {bodies.energy() / start - 1:+.3e}")
'''

ORBITS = Task(
    name="orbits",
    issue="The energy of the simulated bodies grows all the time. Use a method that keeps it and whose error falls "
    "with the square of the step, keep run.py for measuring it, and make the tests pass.",
    files=python_files(
        {
            "orbits/__init__.py": "",
            "orbits/bodies.py": _BODIES,
            "orbits/method.py": _METHOD,
            "tests/test_orbits.py": _TEST,
        }
    ),
    steps=(
        Step("What is here?", Run("find . -name '*.py' | xargs wc -l")),
        Step("The method.", View("orbits/method.py")),
        Step("The bodies.", View("orbits/bodies.py")),
        Step("What is asked of them?", Run("cat tests/test_orbits.py")),
        Step("I want to see the drift.", Create("run.py", _RUN)),
        Step("As it is.", Run("timeout 100 python run.py 6 0.01 250000")),
        Step("It grows all along. Speeds first, then places.", Replace("orbits/method.py", _EULER, _KICK_DRIFT)),
        Step("Does it still grow?", Run("timeout 100 python run.py 6 0.01 250000")),
        Step("It swings. Is half the step a quarter of the error?", Run("timeout 100 python run.py 4 0.005 300000")),
        Step("Only half of it. Leapfrog then.", Replace("orbits/method.py", _KICK_DRIFT, _LEAPFROG)),
        Step("The drift now, in few steps.", Run("timeout 100 python run.py 6 0.02 100000")),
        Step("And with half the step.", Run("timeout 100 python run.py 6 0.01 160000")),
        Step("A quarter, as it should be. But it computes every pair twice. Where does the time go?",
             Run("timeout 100 python -m cProfile -s tottime run.py 6 0.02 30000 | sed -n '/function calls/,$p' | "
                 "head -n 20")),
        Step("Each pair once.", Replace("orbits/bodies.py", _PAIRS_OLD, _PAIRS_NEW)),
        Step("The same figures?", Run("timeout 100 python run.py 6 0.01 160000")),
        Step("The tests.", Run(PYTEST)),
        Step("The change.", Run("git status --short && git diff")),
        Step("Done.", Finish("Leapfrog keeps the energy, with an error of second order; each pair is computed once.")),
    ),
)  # fmt: skip
