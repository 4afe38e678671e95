"""One order, what the consumers add to it, and that it can be repeated byte for byte."""

from mars_sglang.control.sequencer import Sequencer
from mars_sglang.stream.codec import decode, encode
from mars_sglang.stream.events import Heartbeat, PausePredicted, ProgramEnded, TurnEnded, TurnSubmitted


class Predictor:
    """Answers each turn's end, and at a tick ends every program that acts."""

    def __init__(self):
        self.heard = []

    def hear(self, received, state):
        self.heard.append(type(received.event))
        if isinstance(received.event, TurnEnded):
            assert received.event.program in state.programs
            yield PausePredicted(program=received.event.program, quantiles_s=(received.at_s,))

    def tick(self, now_s, state):
        acting = [name for name, known in state.programs.items() if known.phase == "acting"]
        return [ProgramEnded(program=program, reason="dormant") for program in acting]


class Failing(Predictor):
    def hear(self, received, state):
        yield PausePredicted(program="before the failure")
        raise ZeroDivisionError


class Echo(Predictor):
    """Answers an answer."""

    def hear(self, received, state):
        return [received.event] if isinstance(received.event, PausePredicted) else []

    def tick(self, now_s, state):
        return None


def run(*consumers):
    order = Sequencer(5, "control:h:1:a", consumers)
    said = []
    for number, kind in enumerate((TurnSubmitted, TurnEnded, TurnSubmitted)):
        event = kind(program="p", source="server:h:2:a", source_seq=number + 1)
        said += order.order(event, encode(event), 10.0 + number)
        said += order.tick(10.5 + number, counters={"n": number})
    return said


def test_every_message_has_its_place_in_the_order_and_in_its_topic():
    said = run()
    assert [m.seq for m in said] == [1, 2, 3, 4, 5, 6]
    assert [(m.kind, m.topic_seq) for m in said] == [
        (b"turn_submitted", 1),
        (b"heartbeat", 1),
        (b"turn_ended", 1),
        (b"heartbeat", 2),
        (b"turn_submitted", 2),
        (b"heartbeat", 3),
    ]
    assert said[3].event.topics == {"turn_submitted": 1, "heartbeat": 1, "turn_ended": 1}


def test_what_a_consumer_says_follows_what_it_follows_from_at_the_same_time_as_controls_own():
    predictor = Predictor()
    order = Sequencer(5, "control:h:1:a", [predictor])
    for kind in (TurnSubmitted, TurnEnded):
        said = order.order(kind(program="p", source="s:h:1:a", source_seq=1), b"payload", 10.0)
    assert [type(m.event) for m in said] == [TurnEnded, PausePredicted]
    assert said[0].payload == b"payload"
    assert said[1].event == PausePredicted(
        program="p", quantiles_s=(10.0,), source="control:h:1:a", source_seq=1, time_s=10.0
    )
    beat, dormant = order.tick(12.0)
    assert isinstance(beat.event, Heartbeat)
    assert (dormant.event.reason, dormant.event.source_seq, dormant.at_s) == ("dormant", 3, 12.0)
    assert not order.state.programs
    assert predictor.heard == [TurnSubmitted, TurnEnded]


def test_consumers_hear_each_other_and_not_themselves():
    echo = Echo()
    kinds = [type(m.event) for m in run(Predictor(), echo)]
    assert kinds.count(PausePredicted) == 2


def test_a_failing_consumer_is_switched_off_with_one_line_and_the_rest_goes_on(caplog):
    predictor = Predictor()
    kinds = [type(m.event) for m in run(Failing(), predictor)]
    assert kinds.count(TurnSubmitted) == 2
    assert len([record for record in caplog.records if "switched off" in record.getMessage()]) == 1
    assert predictor.heard.count(TurnSubmitted) == 2


def test_consumers_that_answer_each_other_without_end_are_stopped(caplog):
    order = Sequencer(5, "control:h:1:a", [Echo(), Echo()])
    order.order(PausePredicted(), encode(PausePredicted()), 1.0)
    assert "switched off" in caplog.text
    order.order(PausePredicted(), encode(PausePredicted()), 2.0)


def test_the_same_events_give_the_same_bytes():
    assert [m[:6] for m in run(Predictor())] == [m[:6] for m in run(Predictor())]
    assert all(decode(m.payload) == m.event for m in run(Predictor()))
