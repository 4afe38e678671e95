from mars_sglang.emulation.dictation import Dictation

END = 9


def test_answer_comes_out_token_by_token_and_ends():
    dictation = Dictation(END)
    dictation.put("r", 100, [5, 6, 7])
    assert [dictation.next_token("r", 100 + n) for n in range(4)] == [5, 6, 7, END]


def test_retracted_request_goes_on_where_it_was():
    dictation = Dictation(END)
    dictation.put("r", 100, [5, 6, 7])
    assert [dictation.next_token("r", n) for n in (100, 101, 102)] == [5, 6, 7]
    # Retracted and prefilled again with its two tokens of answer, first a part of it.
    assert dictation.next_token("r", 64) is None
    assert [dictation.next_token("r", n) for n in (102, 103)] == [7, END]


def test_text_is_forgotten_once_the_end_is_out():
    dictation = Dictation(END)
    dictation.put("r", 1, [])
    assert dictation.next_token("r", 1) == END
    assert len(dictation) == 0
    assert dictation.next_token("r", 2) is None


def test_unknown_request_has_nothing_dictated():
    assert Dictation(END).next_token("r", 1) is None


def test_oldest_text_goes_when_there_are_too_many():
    dictation = Dictation(END, limit=2)
    for rid in "abc":
        dictation.put(rid, 1, [1])
    assert [dictation.next_token(rid, 1) for rid in "abc"] == [None, 1, 1]
