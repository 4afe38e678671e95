"""A report from a database: generate data, load it, a wrong and slow query, an index, the query's plan."""

from eval.agents.task import PYTEST, Create, Finish, Replace, Run, Step, Task, View
from eval.agents.tasks.repository import python_files

_MAKE = '''\
"""Writes data/*.csv, the same in every run: `python -m warehouse.make ORDERS`."""

import csv
import sys
from pathlib import Path


def rows(count):
    """Orders (number, customer, day), lines (order, item, pieces, cents), and payments (order, cents)."""
    orders, lines, payments = [], [], []
    state = 1
    for number in range(count):
        state = state * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1
        orders.append((number, (state >> 40) % (1 + count // 20), 1 + (state >> 24) % 365))
        for line in range(1 + (state >> 33) % 4):
            lines.append((number, (state >> 9 + line) % 300, 1 + (state >> 17) % 5, 100 + (state >> 29 + line) % 900))
        total = sum(pieces * cents for order, _, pieces, cents in lines[-4:] if order == number)
        # Every third order is paid in two parts, every seventh not at all.
        if number % 7:
            parts = [total // 2, total - total // 2] if number % 3 == 0 else [total]
            payments.extend((number, cents) for cents in parts)
    return {"orders": orders, "lines": lines, "payments": payments}


def main():
    Path("data").mkdir(exist_ok=True)
    for name, content in rows(int(sys.argv[1])).items():
        with open(f"data/{name}.csv", "w", newline="") as file:
            csv.writer(file).writerows(content)
        print(f"data/{name}.csv: {len(content)} rows")


if __name__ == "__main__":
    main()
'''

_SCHEMA = """\
create table orders (number integer primary key, customer integer, day integer);
create table lines (ordered integer, item integer, pieces integer, cents integer);
create table payments (ordered integer, cents integer);
"""

_REPORT_SQL = """\
-- What each customer still owes.
select o.customer, sum(l.pieces * l.cents) - coalesce(sum(p.cents), 0) as owed
from orders o
join lines l on l.ordered = o.number
left join payments p on p.ordered = o.number
group by o.customer
having owed > 0
order by owed desc, o.customer;
"""

_REPORT_NEW = """\
-- What each customer still owes. Lines and payments are summed apart: joined, each would be counted once for each
-- of the others.
with owed_orders as (
    select o.customer,
        (select sum(l.pieces * l.cents) from lines l where l.ordered = o.number)
        - (select coalesce(sum(p.cents), 0) from payments p where p.ordered = o.number) as cents
    from orders o
)
select customer, sum(cents) as owed
from owed_orders
group by customer
having owed > 0
order by owed desc, customer;
"""

_INDEXES = """\
create index lines_of_order on lines (ordered, pieces, cents);
create index payments_of_order on payments (ordered, cents);
"""

_STORE = '''\
"""The database: `python -m warehouse.store load`, `report`, `plan`."""

import csv
import sqlite3
import sys
from pathlib import Path

HERE = Path(__file__).parent


def opened(path, tables=None):
    """A database; a new one with ``tables`` of rows if they are given."""
    database = sqlite3.connect(path)
    if tables is not None:
        database.executescript((HERE / "schema.sql").read_text())
        for name, content in tables.items():
            content = list(content)
            database.executemany(f"insert into {name} values ({', '.join('?' * len(content[0]))})", content)
        database.commit()
    return database


def report(database, plan=False):
    query = (HERE / "report.sql").read_text()
    return database.execute(("explain query plan " if plan else "") + query).fetchall()


def main():
    if sys.argv[1] == "load":
        Path("data/store.db").unlink(missing_ok=True)
        names = ("orders", "lines", "payments")
        opened("data/store.db", {name: csv.reader(open(f"data/{name}.csv")) for name in names})
    else:
        for row in report(opened("data/store.db"), plan=sys.argv[1] == "plan"):
            print(*row, sep="\\t")


if __name__ == "__main__":
    main()
'''

_TEST = """\
from collections import Counter

import pytest

from warehouse.make import rows
from warehouse.store import opened, report


@pytest.mark.parametrize("count", [100, 5000, 60000])
def test_customers_owe_what_they_ordered_and_did_not_pay(count):
    tables = rows(count)
    customers = {number: customer for number, customer, _ in tables["orders"]}
    owed = Counter()
    for number, _, pieces, cents in tables["lines"]:
        owed[customers[number]] += pieces * cents
    for number, cents in tables["payments"]:
        owed[customers[number]] -= cents
    expected = [(customer, cents) for customer, cents in owed.items() if cents > 0]
    assert report(opened(":memory:", tables)) == sorted(expected, key=lambda row: (-row[1], row[0]))


def test_nothing_is_indexed_on_the_fly():
    plan = report(opened(":memory:", rows(100)), plan=True)
    assert not [row for row in plan if "AUTOMATIC" in row[3] or row[3] in ("SCAN l", "SCAN p")], plan
"""

_SHARES = '''\
"""Prints how many customers owe how much: `python -m warehouse.shares`."""

from collections import Counter

from warehouse.store import opened, report

counts = Counter(len(str(owed)) for _, owed in report(opened("data/store.db")))
for digits, count in sorted(counts.items()):
    print(f"{10 ** (digits - 1) / 100:>10.2f} and more: {count}")
'''

WAREHOUSE = Task(
    name="warehouse",
    issue="The report of what customers owe is wrong for orders with several lines or payments, and SQLite builds an "
    "index each time it runs. Fix both, add a module warehouse.shares that counts customers by what they owe, and make "
    "the tests pass.",
    files=python_files(
        {
            "warehouse/__init__.py": "",
            "warehouse/make.py": _MAKE,
            "warehouse/store.py": _STORE,
            "warehouse/schema.sql": _SCHEMA,
            "warehouse/report.sql": _REPORT_SQL,
            "tests/test_report.py": _TEST,
        },
        ignored="data/\n",
    ),
    steps=(
        Step("What is here?", Run("ls -l warehouse tests && cat warehouse/*.sql")),
        Step("How is it used?", View("warehouse/store.py")),
        Step("Data to try it with.", Run("python -m warehouse.make 250000 && head -n 5 data/*.csv")),
        Step("Into the database.", Run("timeout 100 python -m warehouse.store load && ls -s data")),
        Step("What does it report?", Run("timeout 100 python -m warehouse.store report | head -n 500")),
        Step("And how?", Run("python -m warehouse.store plan")),
        Step("What should it be? I add up one customer by hand.",
             Run("awk -F, '$2 == 17 {print $1}' data/orders.csv | tr -d '\\r' | sort > data/numbers && "
                 "sort -t, -k1,1 data/lines.csv | join -t, data/numbers - | tr -d '\\r' | "
                 "awk -F, '{sum += $3 * $4} END {print sum}'")),
        Step("Lines and payments multiply each other.", Replace("warehouse/report.sql", _REPORT_SQL, _REPORT_NEW)),
        Step("With indexes that hold all that the report reads.",
             Replace("warehouse/schema.sql", _SCHEMA.splitlines(keepends=True)[-1],
                     _SCHEMA.splitlines(keepends=True)[-1] + _INDEXES)),
        Step("Load it again.", Run("timeout 100 python -m warehouse.store load && ls -s data")),
        Step("How is it done now?", Run("python -m warehouse.store plan")),
        Step("And what does it say?", Run("timeout 100 python -m warehouse.store report > data/report && "
                                          "head -n 400 data/report && wc -l data/report && "
                                          "awk '$1 == 17' data/report")),
        Step("The counts.", Create("warehouse/shares.py", _SHARES)),
        Step("I try it.", Run("timeout 100 python -m warehouse.shares")),
        Step("The tests.", Run(f"{PYTEST} --durations=3")),
        Step("The change.", Run("git status --short && git diff")),
        Step("Done.", Finish("Lines and payments are summed apart, from indexes; warehouse.shares counts customers.")),
    ),
)  # fmt: skip
