"""Predictions of remaining turns worked out by hand, and the laws of any."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mars_sglang.core import remaining
from mars_sglang.core.program import Answer, Program
from mars_sglang.core.remaining import MAX_FACTOR, RemainingTurns, kind_of, stretch_of
from mars_sglang.core.views import ProgramView

SMALL, LARGE = 1500, 60_000

tools = st.sampled_from(["cat", "sed", "pytest", "rm", ""])
lives = st.lists(
    st.tuples(st.sampled_from([SMALL, LARGE]), st.lists(tools, min_size=1, max_size=12)), min_size=1, max_size=8
)


class Agent:
    """A program whose turns end one second after they are asked for, and are two seconds apart."""

    def __init__(self, name: str, first_tokens: int = SMALL):
        self.state = Program(name, 0.0)
        self.tokens = first_tokens

    def ask(self) -> ProgramView:
        self.state.begin(str(self.state.turns), self.tokens, 2.0 * self.state.turns)
        return self.state.view()

    def end(self, tool: str = "cat") -> ProgramView:
        turn = self.state.turns
        self.state.end(str(turn), 2.0 * turn + 1.0, Answer(self.tokens, 50, tools=(tool,) if tool else ()))
        self.tokens += 300
        return self.state.view()

    def turn(self, tool: str = "cat") -> ProgramView:
        self.ask()
        return self.end(tool)


def live(predictor: RemainingTurns, name: str, called: list[str], first_tokens: int = SMALL) -> Agent:
    """An agent that has called these tools, one a turn, and is not over."""
    agent = Agent(name, first_tokens)
    for tool in called:
        predictor.observe_turn(agent.turn(tool))
    return agent


def run(predictor: RemainingTurns, name: str, called: list[str], first_tokens: int = SMALL, said: bool = True) -> None:
    predictor.observe_over(live(predictor, name, called, first_tokens).state.view(), said)


def told(programs) -> RemainingTurns:
    predictor = RemainingTurns()
    for number, (first_tokens, called) in enumerate(programs):
        run(predictor, f"p{number}", called, first_tokens)
    return predictor


def asked(predictor: RemainingTurns) -> list[float]:
    """Predictions of programs that it was told nothing of, at several numbers of turns."""
    found = []
    for first_tokens in (SMALL, LARGE):
        view = Agent("other", first_tokens).ask()
        found += [predictor.predict(view._replace(turns=turns)) for turns in (0, 1, 2, 5, 20, 300, 5000)]
    return found


@pytest.mark.parametrize("turns", [0, 1, 7, 63, 1023, 1024, 10**6])
def test_before_anything_is_learned_every_program_has_twenty_turns_left(turns):
    view = Agent("p").ask()._replace(turns=turns)
    assert RemainingTurns().predict(view) == pytest.approx(20.0)


def test_stretches_are_single_turns_at_first_and_four_an_octave_later():
    assert [stretch_of(turns) for turns in range(1, 9)] == [0, 1, 2, 3, 4, 5, 5, 6]
    assert stretch_of(64) - stretch_of(32) == stretch_of(1024) - stretch_of(512) == 4
    assert stretch_of(1023) + 1 == stretch_of(1024) == stretch_of(10**9)


def test_a_kind_is_an_octave_of_the_first_prompt():
    tokens = (0, 1, 1023, 1024, 2047, 2048, 10**9)
    assert [kind_of(Agent("p", first).ask()) for first in tokens] == [0, 0, 9, 10, 10, 11, 20]


def test_one_program_of_one_turn_makes_a_second_turn_less_likely_most_of_all_for_its_kind():
    predictor = told([(SMALL, ["cat"])])
    rate = (1 + 4) / (1 + 80)
    over_all = (1 + 4 * rate) / (1 + 4)
    over_kind = (1 + 4 * over_all) / (1 + 4)
    small, large = (Agent("new", tokens).ask() for tokens in (SMALL, LARGE))
    assert predictor.predict(small) == pytest.approx(1 + (1 - over_kind) / rate)
    assert predictor.predict(large) == pytest.approx(1 + (1 - over_all) / rate)
    # Nothing is known of later turns but the one rate.
    assert predictor.predict(small._replace(turns=1)) == pytest.approx(81 / 5)


def test_a_program_alive_counts_for_the_turns_that_were_followed_by_another():
    predictor = RemainingTurns()
    live(predictor, "alive", ["cat"] * 3)
    run(predictor, "over", ["cat"])
    # Of turns 1 and 2 of the one alive, and of turn 1 of the other, it is known what followed: one end in three.
    rate = (1 + 4) / (3 + 80)
    at_one = (1 + 4 * (1 + 4 * rate) / (2 + 4)) / (2 + 4)
    at_two = (4 * (4 * rate) / (1 + 4)) / (1 + 4)
    expected = 1 + (1 - at_one) * (1 + (1 - at_two) / rate)
    assert predictor.predict(Agent("new").ask()) == pytest.approx(expected)


def test_what_is_left_inside_a_stretch_is_that_of_a_constant_chance():
    predictor = told([(SMALL, ["cat"] * 6)] * 30)
    # Turns 6 and 7 are one stretch: with the same chance of an end after each, one more turn done is one step along it.
    view = Agent("new").ask()
    at_five, at_six, at_seven = (predictor.predict(view._replace(turns=turns)) for turns in (5, 6, 7))
    chance = 1 - (at_five - 1) / at_six
    assert at_six == pytest.approx(1 + (1 - chance) * at_seven)
    assert 0 < chance < 1


def test_kinds_that_differ_are_told_apart_from_their_first_prompt_on():
    predictor = told([(SMALL, ["cat"] * 3), (LARGE, ["cat"] * 40)] * 20)
    # One in twelve of the small ones is still taken for one that goes on like the large ones.
    assert 3 < predictor.predict(Agent("new", SMALL).ask()) < 3 + 40 / 12
    assert predictor.predict(Agent("new", LARGE).ask()) == pytest.approx(40, rel=0.2)


def test_the_further_a_program_has_come_of_a_known_length_the_less_it_has_left():
    predictor = told([(SMALL, ["cat"] * 30)] * 40)
    agent, left = Agent("new"), []
    for _ in range(25):
        left.append(predictor.predict(agent.ask()))
        predictor.observe_turn(agent.end())
    assert left == sorted(left, reverse=True)


def test_who_cleans_up_is_nearly_through_and_who_reads_is_not():
    predictor = RemainingTurns()
    for number in range(40):
        reads = 6 + number % 10
        run(predictor, f"p{number}", ["cat"] * reads + ["rm"] * 3)
    reader = live(predictor, "reader", ["cat"] * 9)
    cleaner = live(predictor, "cleaner", ["cat"] * 7 + ["rm"] * 2)
    left, nearly = predictor.predict(reader.ask()), predictor.predict(cleaner.ask())
    assert nearly < left / 2
    assert left / nearly <= MAX_FACTOR**2


def test_programs_that_all_did_the_same_are_predicted_by_turns_and_kind_alone():
    predictor = told([(SMALL, ["cat"] * turns) for turns in range(2, 30)])
    view = live(predictor, "same", ["cat"] * 5).ask()
    assert predictor.predict(view) == pytest.approx(predictor.predict(view._replace(program="stranger")), rel=1e-6)


@pytest.mark.parametrize("said", [True, False])
def test_an_end_counts_whether_it_was_said_or_not(said):
    predictor = RemainingTurns()
    for number in range(10):
        run(predictor, f"p{number}", ["cat"] * 4, said=said)
    assert asked(predictor) == asked(told([(SMALL, ["cat"] * 4)] * 10))
    assert len(predictor) == (0 if said else 10)


def test_an_end_is_counted_once_however_often_it_is_told():
    predictor = RemainingTurns()
    agent = live(predictor, "p", ["cat"] * 4)
    for said in (False, False, True):
        predictor.observe_over(agent.state.view(), said)
    assert asked(predictor) == asked(told([(SMALL, ["cat"] * 4)]))


def test_a_program_that_comes_back_was_not_over():
    returned, patient = RemainingTurns(), RemainingTurns()
    for predictor in (returned, patient):
        run(predictor, "before", ["rm"] * 9)
        agent = live(predictor, "p", ["cat"] * 4)
        if predictor is returned:
            predictor.observe_over(agent.state.view(), said=False)
        for tool in ("cat", "rm"):
            predictor.observe_turn(agent.turn(tool))
        predictor.observe_over(agent.state.view(), said=True)
    assert asked(returned) == pytest.approx(asked(patient))


def test_a_program_first_heard_of_in_its_hundredth_turn_says_nothing_of_its_first():
    predictor = RemainingTurns()
    for number in range(20):
        agent = Agent(f"p{number}")
        for _ in range(100):
            agent.turn()
        predictor.observe_turn(agent.state.view())
        predictor.observe_over(agent.turn(), said=True)
    fresh = Agent("new").ask()
    # Twenty ends in forty turns raise the one rate, and at turns 91 to 107 far more.
    assert predictor.predict(fresh._replace(turns=100)) < predictor.predict(fresh)
    assert predictor.predict(fresh) > 4


def test_a_turn_that_is_not_told_of_yet_leaves_what_the_program_did_before():
    predictor = told([(SMALL, ["cat"] * (6 + i % 10) + ["rm"] * 3) for i in range(40)])
    agent = live(predictor, "p", ["cat"] * 12)
    turn_later = agent.turn()._replace(turns=13)
    stranger = turn_later._replace(program="stranger")
    factor = predictor.predict(turn_later._replace(turns=12)) / predictor.predict(stranger._replace(turns=12))
    assert factor > 1
    assert predictor.predict(turn_later) == pytest.approx(factor * predictor.predict(stranger))


def test_a_prediction_changes_with_the_version_only():
    predictor = told([(SMALL, ["cat"] * 9)])
    view = live(predictor, "p", ["cat"] * 2).ask()
    version, left = predictor.version, predictor.predict(view)
    for number in range(100):
        predictor.observe_turn(Agent(f"q{number}").turn())
        if predictor.version == version:
            assert predictor.predict(view) == left
    assert predictor.version > version


def test_a_program_without_an_answered_turn_teaches_nothing():
    predictor = RemainingTurns()
    view = Agent("p").ask()
    predictor.observe_turn(view)
    predictor.observe_over(view, said=True)
    assert asked(predictor) == asked(RemainingTurns())
    assert len(predictor) == 0


def test_programs_remembered_are_bounded_and_the_oldest_are_forgotten(monkeypatch):
    monkeypatch.setattr(remaining, "MAX_LIVE", 5)
    predictor = told([(SMALL, ["cat"] * 5 + ["rm"] * (i % 4)) for i in range(30)])
    agents = [live(predictor, f"p{i}", ["rm"] * 3) for i in range(8)]
    assert len(predictor) == 5
    forgotten, kept = (predictor.predict(agents[i].ask()) for i in (0, 7))
    assert forgotten == predictor.predict(agents[0].state.view()._replace(program="stranger"))
    assert kept != forgotten


def test_tools_past_the_bound_count_as_one():
    predictor = told([(SMALL, [f"tool-{i}-{j}" for j in range(9)]) for i in range(20)])
    assert all(math.isfinite(left) and left > 0 for left in asked(predictor))


def test_what_was_learned_long_ago_is_outweighed(monkeypatch):
    monkeypatch.setattr(remaining, "MAX_ENDS", 40.0)
    predictor = told([(SMALL, ["cat"] * 20)] * 60 + [(SMALL, ["cat"] * 3)] * 120)
    assert predictor.predict(Agent("new").ask()) == pytest.approx(3, rel=0.1)


@settings(max_examples=40, deadline=None)
@given(lives, st.lists(tools, max_size=9))
def test_a_prediction_is_finite_and_above_zero_and_asking_changes_nothing(programs, called):
    predictor, asked_often = RemainingTurns(), RemainingTurns()
    for number, (first_tokens, some) in enumerate(programs):
        run(predictor, f"p{number}", some, first_tokens)
        run(asked_often, f"p{number}", some, first_tokens)
        assert all(math.isfinite(left) and left > 0 for left in asked(asked_often))
    agents = [live(p, "q", called) for p in (predictor, asked_often)]
    first, second = (p.predict(agent.ask()) for p, agent in zip((predictor, asked_often), agents, strict=True))
    assert first == second > 0


@settings(max_examples=40, deadline=None)
@given(lives, st.randoms(use_true_random=False), st.lists(tools, min_size=1, max_size=9))
def test_the_order_of_programs_that_are_over_does_not_matter(programs, random, called):
    shuffled = list(programs)
    random.shuffle(shuffled)
    one, other = told(programs), told(shuffled)
    assert asked(one) == pytest.approx(asked(other))
    assert one.predict(live(one, "q", called).ask()) == pytest.approx(other.predict(live(other, "q", called).ask()))


@settings(max_examples=30, deadline=None)
@given(lives)
def test_interleaved_programs_teach_what_they_would_one_after_another(programs):
    together = RemainingTurns()
    agents = [(Agent(f"p{i}", first_tokens), called) for i, (first_tokens, called) in enumerate(programs)]
    for turn in range(12):
        for agent, called in agents:
            if turn < len(called):
                together.observe_turn(agent.turn(called[turn]))
    for agent, _ in agents:
        together.observe_over(agent.state.view(), said=True)
    assert asked(together) == pytest.approx(asked(told(programs)))
