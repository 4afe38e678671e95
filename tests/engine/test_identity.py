"""Whose turn a request is."""

import pytest

from mars_sglang.engine.identity import IdentityError, identify


@pytest.mark.parametrize("field", ["program_id", "job_id", "session_id"])
def test_ids_in_the_body(field):
    assert identify({field: "agent-7"}, {}).program == "agent-7"


@pytest.mark.parametrize("header", ["x-session-id", "x-litellm-session-id"])
def test_ids_in_a_header(header):
    assert identify({}, {header: "agent-7"}).program == "agent-7"


def test_no_id_is_no_program():
    assert identify({"messages": []}, {"user-agent": "x"}).program is None


def test_the_same_id_in_two_places_is_fine_and_two_ids_are_not():
    assert identify({"session_id": "a"}, {"x-litellm-session-id": "a"}).program == "a"
    with pytest.raises(IdentityError, match=r"body field session_id = 'a', header x-session-id = 'b'"):
        identify({"session_id": "a"}, {"x-session-id": "b"})


@pytest.mark.parametrize("value", ["", "x" * 257, "a\nb", 7, ["a"], {"a": 1}, True])
def test_an_unusable_id_is_an_error_that_says_what_is_accepted(value):
    with pytest.raises(IdentityError, match="a program id is a string of 1 to 256 printable characters"):
        identify({"program_id": value}, {})


def test_an_id_belongs_to_its_tenant_and_the_key_is_not_kept():
    one = identify({"program_id": "a"}, {"authorization": "Bearer one"}).program
    two = identify({"program_id": "a"}, {"authorization": "Bearer two"}).program
    assert len({one, two, "a"}) == 3
    assert "one" not in one


def test_a_client_may_say_that_a_turn_is_its_last():
    assert identify({"program_id": "a", "is_last_step": True}, {}).last
    assert not identify({"program_id": "a", "is_last_step": "yes"}, {}).last
