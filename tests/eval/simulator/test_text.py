import pytest

from eval.replay.conversation import Conversation
from eval.replay.filler import SharedText
from eval.replay.ruler import Ruler
from eval.simulator.text import History, Text
from tests.eval.simulator.builders import program


def test_a_text_knows_where_each_token_comes_from():
    text = Text([("a", 0, 10), ("b", 5, 10)])
    assert len(text) == 20
    assert text.at(0) == ("a", 0)
    assert text.at(9) == ("a", 9)
    assert text.at(10) == ("b", 5)


def test_a_cut_keeps_sources_and_offsets():
    text = Text([("a", 0, 10), ("b", 5, 10)])
    assert text.cut(8, 13) == [("a", 8, 2), ("b", 5, 3)]
    assert text.cut(4, 4) == []


def test_shared_tokens_end_where_sources_or_offsets_differ():
    text = Text([("a", 0, 10), ("b", 5, 10)])
    assert text.shared([("a", 0, 10), ("b", 5, 10)], 0, 20) == 20
    assert text.shared([("a", 0, 10), ("b", 5, 10)], 0, 12) == 12
    assert text.shared([("a", 0, 6), ("a", 6, 4), ("c", 0, 3)], 0, 20) == 10
    assert text.shared([("b", 6, 4)], 10, 20) == 0
    assert text.shared([("b", 5, 4)], 10, 20) == 4


def test_a_growing_history_keeps_prompt_and_answer():
    history = History(program("p", (100, 10), (150, 20)))
    first, counted, equal = history.ask(history._program.turns[0])
    assert (len(first), counted, equal) == (110, 0, 0)
    second, counted, equal = history.ask(history._program.turns[1])
    assert (len(second), counted, equal) == (170, 110, 110)
    assert second.spans == [(("p", 0), 0, 170)]


def test_a_cut_history_starts_a_new_source():
    trace = program("p", (1000, 10), (1200, 10, 0.0, 500), (1300, 10, 0.0, None))
    history = History(trace)
    history.ask(trace.turns[0])
    second, counted, equal = history.ask(trace.turns[1])
    assert (counted, equal) == (500, 497)
    assert second.spans == [(("p", 0), 0, 497), (("p", 1), 497, 713)]
    third, _, equal = history.ask(trace.turns[2])
    assert equal == 1210
    assert third.spans == [(("p", 0), 0, 497), (("p", 1), 497, 813)]


def test_a_prompt_shorter_than_its_history_loses_the_end():
    trace = program("p", (1000, 100), (1050, 10))
    history = History(trace)
    history.ask(trace.turns[0])
    text, counted, equal = history.ask(trace.turns[1])
    assert (len(text), counted, equal) == (1060, 1044, 1041)


def test_programs_share_their_tools_and_as_much_of_the_system_prompt_as_lines_up():
    alike = [program(id, (5000, 10), tools=1000, system=500) for id in "ab"]
    first, second = (History(p).ask(p.turns[0])[0] for p in alike)
    assert first.shared(second.spans, 0, 5000) == 1500
    other = program("c", (5000, 10), tools=800, system=500)
    third = History(other).ask(other.turns[0])[0]
    assert first.shared(third.spans, 0, 5000) == 800


@pytest.mark.parametrize("reuse", [None, 400, 960, 990])
@pytest.mark.parametrize("second", [900, 1016, 1030, 1200])
def test_what_is_kept_is_what_the_replayer_keeps(second, reuse):
    trace = program("p", (1000, 20), (second, 10, 0.0, reuse))
    ruler = Ruler(user=5.0, assistant=5.0)
    talk = Conversation(trace, 0, ruler, SharedText())
    talk.ask(trace.turns[0])
    talk.answered(" word" * 20, 1000, 20)
    history = History(trace)
    history.ask(trace.turns[0])
    kept = talk.ask(trace.turns[1]).kept_tokens
    counted = history.ask(trace.turns[1])[1]
    # The replayer counts the frame of the answer's message too.
    assert kept == pytest.approx(counted, abs=6)
