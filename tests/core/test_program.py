"""What is remembered of programs, and for how many."""

from mars_sglang.core.program import MAX_TOOLS, Answer, Program, ProgramTable


def test_the_program_table_is_bounded_and_forgets_the_stalest():
    table = ProgramTable(max_programs=3)
    for i in range(10):
        table.touch(f"p{i}", float(i))
    assert len(table) == 3 and table.get("p9") and not table.get("p0")
    table.get("p7").begin("t", 1, 10.0)
    for i in range(10, 20):
        table.touch(f"p{i}", float(i))
    assert table.get("p7") is not None and len(table) == 3
    table.put(Program("p7", 0.0))
    assert [known.program for known in table.newest()] == ["p7", "p19", "p18"]
    table.forget("p19")
    table.forget("unknown")
    assert [known.program for known in table.newest()] == ["p7", "p18"]


def test_a_program_that_comes_to_a_table_of_busy_ones_is_known():
    table = ProgramTable(max_programs=2)
    for name in "ab":
        table.touch(name, 0.0).hold("t", 1, 0.0)
    assert table.touch("c", 1.0) is table.get("c")
    assert len(table) == 3, "no busy program is forgotten"


def test_parallel_turns_ask_for_the_sum_of_their_prompts():
    known = Program("a", 0.0)
    known.hold("t1", 1000, 1.0)
    known.hold("t2", 2000, 2.0)
    view = known.view()
    assert (view.context_tokens, view.waiting_since_s, view.in_flight) == (3000, 1.0, 0)
    known.begin("t3", 500, 3.0)
    assert (known.view().context_tokens, known.view().in_flight) == (3500, 1)


def test_the_tools_of_a_program_that_are_told_apart_are_bounded():
    known = Program("a", 0.0)
    for i in range(2 * MAX_TOOLS):
        known.begin(f"t{i}", 100, float(i))
        known.end(f"t{i}", i + 0.5, Answer(100, 10, 0, (f"tool-{i}", "tool-0")))
    tools = dict(known.view().history.tools)
    assert len(tools) == MAX_TOOLS and tools["tool-0"] == 2 * MAX_TOOLS + 1
