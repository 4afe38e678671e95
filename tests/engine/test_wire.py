"""What rides with a request to the scheduler."""

import msgspec
from sglang.srt.sampling.sampling_params import SamplingParams

from mars_sglang.engine.wire import WireTurn, put, put_all, take

TURN = WireTurn("agent", 12.5, 3.25, ("other", "third"))


def test_a_turn_survives_sglangs_own_sampling_parameters():
    params = put({"max_new_tokens": 5, "custom_params": {"theirs": 1}}, TURN)
    wire = msgspec.msgpack.encode(SamplingParams(**params).custom_params)
    received = msgspec.msgpack.decode(wire)
    assert received["theirs"] == 1
    assert take(received, now_s=99.0) == TURN


def test_what_a_client_asks_and_says_of_its_turn_rides_along():
    asked = TURN._replace(last=True, info=True)
    assert take(put(None, asked)["custom_params"], 99.0) == asked


def test_an_anonymous_turn_keeps_its_arrival():
    assert take(put(None, WireTurn(None, 7.0, 7.0))["custom_params"], 99.0) == WireTurn(None, 7.0, 7.0)


def test_a_client_cannot_speak_for_us():
    forged = {"custom_params": {"mars": {"program": "victim", "arrived": -1.0}, "mars_paused": ["victim"]}}
    assert take(put(forged, WireTurn(None, 7.0, 7.0))["custom_params"], 99.0) == WireTurn(None, 7.0, 7.0)


def test_the_clients_own_parameters_are_left_as_they_are():
    theirs = {"temperature": 0, "custom_params": {"a": 1}}
    put(theirs, TURN)
    assert theirs == {"temperature": 0, "custom_params": {"a": 1}}


def test_a_batch_carries_the_turn_in_each_of_its_requests():
    assert [take(p["custom_params"], 0.0) for p in put_all([{}, {}], TURN)] == [TURN, TURN]


def test_a_request_that_never_met_the_server_process_arrives_now():
    assert take(None, 4.0) == WireTurn(None, 4.0, 4.0)
    assert take({"mars": "nonsense"}, 4.0) == WireTurn(None, 4.0, 4.0)
