"""Three hundred log files: search, count and sort in the shell, with long outputs, then a summary by program."""

from eval.agents.task import PYTEST, Create, Finish, Replace, Run, Step, Task, View
from eval.agents.tasks.repository import python_files

_PATHS = ("/", "/cart", "/items", "/login", "/pay", "/search")


def _log(day: int, host: int) -> str:
    """One host's requests of a day: time, client, path, status, milliseconds."""
    state = day * 100 + host + 1
    lines = []
    for i in range(60):
        state = state * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
        path = _PATHS[(state >> 40) % 6]
        # /pay fails on one host from a certain day on, and is slow before that.
        failing = path == "/pay" and host == 7 and day >= 19
        status = 502 if failing else 404 if state >> 59 == 3 else 200
        took = 3000 + (state >> 50) % 900 if path == "/pay" and host == 7 and day >= 12 else 5 + (state >> 45) % 120
        client = f"10.0.{(state >> 20) % 8}.{(state >> 12) % 200}"
        lines.append(f"{8 + i // 6:02d}:{i * 37 % 60:02d} {client} {path} {status} {took}\n")
    return "".join(lines)


_SUMMARY = '''\
"""Counts failed requests: `python -m accesslog`."""

import sys
from collections import Counter
from pathlib import Path


def requests(folder):
    """All requests as (host, path, status, milliseconds)."""
    for path in Path(folder).glob("*/*.log"):
        for line in path.read_text().splitlines():
            _, _, requested, status, took = line.split()
            yield path.stem, requested, status, int(took)


def failed(folder):
    """Failed requests by host and path."""
    return Counter((host, path) for host, path, status, _ in requests(folder) if status.startswith("4"))


if __name__ == "__main__":
    for (host, path), count in failed(sys.argv[1]).most_common(20):
        print(count, host, path)
'''

_SLOW = '''\
"""Times of requests: `python -m accesslog.slow FOLDER` prints quantiles by host and path."""

import sys
from collections import defaultdict

from accesslog.failed import requests


def quantile(values, share):
    """The smallest value that at least ``share`` of ``values`` do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * share // 100) - 1)]


def times(folder):
    """Milliseconds by host and path: how many, half of them within, 95% of them within, the longest."""
    found = defaultdict(list)
    for host, path, _, took in requests(folder):
        found[host, path].append(took)
    return {key: (len(v), quantile(v, 50), quantile(v, 95), max(v)) for key, v in sorted(found.items())}


if __name__ == "__main__":
    for (host, path), row in times(sys.argv[1]).items():
        print(host, path, *row, sep="\\t")
'''

_TEST = """\
from accesslog.failed import failed
from accesslog.slow import quantile, times


def test_server_errors_are_what_fails():
    found = failed("logs")
    assert set(found) == {("host07", "/pay")}
    assert 80 < sum(found.values()) < 160


def test_quantiles_are_values():
    assert quantile([5, 1, 9, 7], 50) == 5
    assert quantile([5, 1, 9, 7], 95) == 9
    assert quantile([3], 50) == 3


def test_one_host_is_slow_for_one_path():
    found = times("logs")
    assert len(found) == 60
    assert [key for key, (_, _, high, _) in found.items() if high > 1000] == [("host07", "/pay")]
    assert sum(count for count, *_ in found.values()) == 300 * 60


def test_folders_are_read_in_order():
    assert list(times("logs")) == sorted(times("logs"))
"""

_NOTE = """\
# What happened

`/pay` on host07 takes over three seconds from day 12 on, and answers 502 from day 19 on. No other host or path does.

Counted with `python -m accesslog.failed logs` and `python -m accesslog.slow logs`.
"""

ACCESSLOG = Task(
    name="accesslog",
    issue="Customers say that paying fails sometimes. Find out where and since when from the logs and write it into "
    "NOTES.md. accesslog.failed counts the wrong status; fix it, add accesslog.slow with times by host and path, and "
    "make the tests pass.",
    files=python_files(
        {
            "accesslog/__init__.py": "",
            "accesslog/failed.py": _SUMMARY,
            **{f"logs/day{day:02d}/host{host:02d}.log": _log(day, host) for day in range(1, 31) for host in range(10)},
            "tests/test_logs.py": _TEST,
        }
    ),
    steps=(
        Step("What is here?", Run("git ls-files | grep -v '^logs/'; find logs -type f | wc -l; du -sh logs; ls logs")),
        Step("How does a log look?", Run("cat logs/day01/host00.log")),
        Step("Every request to pay that was not answered well.", Run("grep -rn '/pay [45]' logs | sort")),
        Step("By status.", Run("cat logs/*/*.log | awk '{print $4}' | sort | uniq -c | sort -rn")),
        Step("502 is what customers see. Where?",
             Run("grep -rc ' 502 ' logs | grep -v ':0$' | sort")),
        Step("One host, from one day on. And by path?",
             Run("cat logs/*/host07.log | awk '{print $3, $4}' | sort | uniq -c")),
        Step("Was it slow before? Daily means for that host.",
             Run("for day in logs/*; do awk -v day=$day '$3 == \"/pay\" {n++; s += $5} END {print day, n, s / n}' "
                 "$day/host07.log; done")),
        Step("Slow since day 12. All slow requests, to see whether other hosts have them.",
             Run("grep -rnE ' [0-9]{4}$' logs | sort | tail -n 400")),
        Step("Only there. The module that should have told us:", View("accesslog/failed.py")),
        Step("It counts 4xx. What does it print?", Run("python -m accesslog.failed logs")),
        Step("Server errors begin with a 5.",
             Replace("accesslog/failed.py", 'status.startswith("4")', 'status.startswith("5")')),
        Step("And folders come in any order.",
             Replace("accesslog/failed.py", 'in Path(folder).glob("*/*.log"):',
                     'in sorted(Path(folder).glob("*/*.log")):')),
        Step("Its name is wrong in its first line, too.",
             Replace("accesslog/failed.py", "`python -m accesslog`", "`python -m accesslog.failed FOLDER`")),
        Step("Again.", Run("python -m accesslog.failed logs")),
        Step("Times.", Create("accesslog/slow.py", _SLOW)),
        Step("What do they say?", Run("python -m accesslog.slow logs")),
        Step("Which clients met it most?",
             Run("cat logs/*/host07.log | awk '$4 == 502 {print $2}' | sort | uniq -c | sort -k1,1rn -k2,2")),
        Step("Spread over all. I write it down.", Create("NOTES.md", _NOTE)),
        Step("The tests.", Run(PYTEST)),
        Step("The change.", Run("git status --short && git diff")),
        Step("Done.", Finish("/pay on host07: slow from day 12, failing from day 19. Both modules show it.")),
    ),
)  # fmt: skip
