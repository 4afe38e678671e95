from mars_sglang.core.policies.bounded_table import BoundedTable


def test_the_least_recently_touched_is_forgotten_first():
    table = BoundedTable(list, limit=2)
    table.touch("a").append(1)
    table.touch("b")
    table.touch("a").append(2)
    table.touch("c")
    assert len(table) == 2
    assert table.get("b") is None
    assert table.get("a") == [1, 2]


def test_looking_at_a_value_keeps_its_place():
    table = BoundedTable(list, limit=2)
    table.touch("a")
    table.touch("b")
    table.get("a")
    table.touch("c")
    assert table.get("a") is None


def test_what_is_not_there_is_none_and_not_made():
    table = BoundedTable(list)
    assert table.get("a") is None and table.get(None) is None and table.pop("a") is None
    assert len(table) == 0
