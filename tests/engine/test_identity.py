"""Whose turn a request is, by the ids that clients send."""

from pathlib import Path

import pytest
from starlette.datastructures import Headers

from mars_sglang.engine.identity import IdentityError, identify
from mars_sglang.engine.identity_sources import SHIPPED, Sources, SourcesError, load_sources


def named(body=None, **headers):
    """Program, parent and where the id stood; header names with _ for -."""
    found = identify(body or {}, {name.replace("_", "-"): value for name, value in headers.items()})
    return found.program, found.parent, found.recognised_by


@pytest.mark.parametrize("source", [s for s in SHIPPED.table if s.level in ("program", "child", "root", "hint")])
def test_each_shipped_place_of_an_id_names_the_program(source):
    name = source.place.replace("*", "acme")
    if source.where == "header":
        found = identify({}, {name: "agent-7"})
    else:
        body = "agent-7"
        for key in reversed(name.split(".")):
            body = {key: body}
        found = identify(body, {})
        assert identify({"extra_body": body}, {}) == found
    assert found.program == "agent-7"
    assert found.recognised_by == f"{'header' if source.where == 'header' else 'body field'} {name}"


# -- what clients send, unmodified


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        # Claude Code: the main agent, a sub-agent of it, and a sub-agent's sub-agent.
        ({}, {"X-Claude-Code-Session-Id": "s"}, ("s", None)),
        ({}, {"X-Claude-Code-Session-Id": "s", "X-Claude-Code-Agent-Id": "a"}, ("s/a", "s")),
        (
            {"metadata": {"user_id": "user_1_account__session_s"}},
            {
                "X-Claude-Code-Session-Id": "s",
                "X-Claude-Code-Agent-Id": "b",
                "X-Claude-Code-Parent-Agent-Id": "a",
                "X-Claude-Remote-Session-Id": "container-9",
            },
            ("s/b", "s/a"),
        ),
        # Codex: the first thread, a thread that it spawned, one spawned by that, and an older release.
        ({"prompt_cache_key": "s"}, {"session-id": "s", "thread-id": "s", "x-client-request-id": "s"}, ("s", None)),
        (
            {"prompt_cache_key": "s"},
            {"session-id": "s", "thread-id": "t", "x-codex-parent-thread-id": "s", "x-openai-subagent": "review"},
            ("s/t", "s"),
        ),
        ({}, {"session-id": "s", "thread-id": "u", "x-codex-parent-thread-id": "t"}, ("s/u", "s/t")),
        ({"prompt_cache_key": "s"}, {"session_id": "s", "conversation_id": "s"}, ("s", None)),
        # OpenCode: a session, and the session of a sub-agent.
        ({}, {"x-session-affinity": "ses_1", "X-Session-Id": "ses_1"}, ("ses_1", None)),
        (
            {},
            {"x-session-affinity": "ses_2", "X-Session-Id": "ses_2", "x-parent-session-id": "ses_1"},
            ("ses_2", "ses_1"),
        ),
        # OpenHands SDK over LiteLLM.
        ({"prompt_cache_key": "c"}, {"x-litellm-session-id": "c"}, ("c", None)),
        # Dynamo: in headers, and in the body.
        (
            {},
            {"x-dynamo-session-id": "child", "x-dynamo-parent-session-id": "root", "x-correlation-id": "x"},
            ("child", "root"),
        ),
        ({"nvext": {"agent_context": {"session_id": "s"}}}, {}, ("s", None)),
        ({"nvext": {"agent_context": {"session_id": "s", "trajectory_id": "t"}}}, {}, ("s/t", "s")),
        (
            {"nvext": {"agent_context": {"session_id": "s", "trajectory_id": "u", "parent_trajectory_id": "t"}}},
            {},
            ("s/u", "s/t"),
        ),
        # vLLM's router, and SGLang's.
        ({}, {"x-session-id": "v", "x-request-id": "unique"}, ("v", None)),
        ({}, {"X-SMG-Routing-Key": "k"}, ("k", None)),
        # mini-swe-agent.
        ({"messages": []}, {"user-agent": "litellm/1.0", "x-stainless-lang": "python"}, (None, None)),
    ],
)
def test_recorded_clients(body, headers, expected):
    found = identify(body, Headers({"host": "h", "accept": "*/*", **headers}))
    assert (found.program, found.parent) == expected


# -- levels


def test_a_program_is_named_before_a_child_a_child_before_its_root_and_a_hint_last():
    everything = {"x_claude_code_session_id": "root", "x_claude_code_agent_id": "child", "x_smg_routing_key": "hint"}
    assert named({"program_id": "p"}, **everything)[0] == "p"
    assert named(**everything)[0] == "root/child"
    assert named({"prompt_cache_key": "hint"}, x_claude_code_session_id="root")[0] == "root"


def test_a_child_without_a_root_stands_for_itself():
    assert named(x_claude_code_agent_id="a") == ("a", None, "header x-claude-code-agent-id")


def test_children_with_the_same_id_in_two_sessions_are_two_programs():
    one, two = (named(x_claude_code_session_id=session, x_claude_code_agent_id="a")[0] for session in "st")
    assert one != two


def test_a_long_child_in_a_long_root_is_hashed_and_stays_itself():
    long = {"x_claude_code_session_id": "s" * 256, "x_claude_code_agent_id": "a" * 256}
    program, parent, _ = named(**long)
    assert len(program) == 64
    assert program == named(**long)[0]
    assert parent == "s" * 256


def test_a_program_is_not_its_own_parent():
    assert named({"program_id": "a"}, x_parent_session_id="a")[:2] == ("a", None)


def test_the_same_id_in_two_places_is_fine_and_two_ids_are_not():
    assert named({"session_id": "a"}, x_litellm_session_id="a")[0] == "a"
    with pytest.raises(IdentityError, match=r"body field session_id = 'a', header x-session-id = 'b'") as raised:
        named({"session_id": "a"}, x_session_id="b")
    assert raised.value.status_code == 400


@pytest.mark.parametrize(
    ("body", "headers", "names"),
    [
        ({"program_id": "a", "job_id": "b"}, {}, ("program_id", "job_id")),
        ({"program_id": "a", "extra_body": {"program_id": "b"}}, {}, ("'a'", "'b'")),
        ({"session_id": "a"}, {"x-acme-session-id": "b"}, ("session_id", "x-acme-session-id")),
        (
            {"nvext": {"agent_context": {"trajectory_id": "a"}}},
            {"thread-id": "b"},
            ("nvext.agent_context.trajectory_id", "thread-id"),
        ),
        ({}, {"session-id": "a", "session_id": "b"}, ("session-id", "session_id")),
    ],
)
def test_ids_of_one_level_that_differ_are_an_error_that_names_both(body, headers, names):
    with pytest.raises(IdentityError) as raised:
        identify(body, headers)
    assert all(name in str(raised.value) for name in names)


def test_a_header_sent_twice_with_two_values_contradicts_itself():
    with pytest.raises(IdentityError, match=r"'a'.*'b'"):
        identify({}, Headers(raw=[(b"x-session-id", b"a"), (b"x-session-id", b"b")]))


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"program_id": "a", "prompt_cache_key": "b", "litellm_session_id": "c"}, {"x-smg-routing-key": "d"}),
        ({"program_id": "a"}, {"x-dynamo-parent-session-id": "b", "x-parent-session-id": "c"}),
        ({"program_id": "a"}, {"x-claude-code-session-id": "b", "x-claude-code-agent-id": "c"}),
        ({"program_id": "a", "user": "b", "metadata": {"user_id": "c"}}, {}),
    ],
)
def test_hints_parents_and_other_levels_contradict_nothing(body, headers):
    assert identify(body, headers).program == "a"


@pytest.mark.parametrize("value", ["", "x" * 257, "a\nb", 7, ["a"], {"a": 1}, True])
def test_an_unusable_id_is_an_error_that_says_what_is_accepted(value):
    with pytest.raises(IdentityError, match="a program id is a string of 1 to 256 printable characters"):
        identify({"program_id": value}, {})


@pytest.mark.parametrize("value", ["", "x" * 257, "a\nb", 7, ["a"], {"a": 1}, True])
def test_an_unusable_hint_is_as_good_as_none(value):
    assert identify({"prompt_cache_key": value, "user": value, "last_func_call": value}, {}) == identify({}, {})


def test_an_empty_header_is_no_id():
    assert named(x_session_id="", x_litellm_session_id="a")[0] == "a"


@pytest.mark.parametrize("body", [{"nvext": "x"}, {"metadata": ["a"]}, {"extra_body": "x"}, {"nvext": {"a": None}}])
def test_a_body_of_another_form_says_nothing(body):
    assert identify(body, {}).program is None


# -- tenants


def test_an_id_belongs_to_its_tenant_and_the_key_is_not_kept():
    one = identify({"program_id": "a"}, {"authorization": "Bearer secret"})
    two = identify({"program_id": "a"}, {"authorization": "Bearer two"})
    assert len({one.program, two.program, "a"}) == 3
    assert "secret" not in str(one)
    assert one.group != two.group


def test_an_api_key_counts_where_there_is_no_authorization():
    by_key = named({"program_id": "a"}, x_api_key="k")[0]
    assert by_key not in ("a", named({"program_id": "a"}, x_api_key="l")[0])
    both = {"authorization": "Bearer one", "x_api_key": "k"}
    assert named({"program_id": "a"}, **both) == named({"program_id": "a"}, authorization="Bearer one")


def test_a_parent_is_of_the_same_tenant():
    found = identify({"program_id": "a"}, {"x-parent-session-id": "b", "authorization": "Bearer one"})
    assert found.parent.partition("/")[0] == found.program.partition("/")[0]


def test_users_of_one_tenant_are_groups_of_it():
    groups = {identify({"user": user}, {"authorization": "Bearer one"}).group for user in "ab"}
    assert len(groups) == 2
    assert identify({"user": "a"}, {}).program is None


# -- what else a client may say


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"is_last_step": True}, {}),
        ({"extra_body": {"is_last_step": True}}, {}),
        ({"nvext": {"agent_context": {"trajectory_final": True}}}, {}),
        ({}, {"x-dynamo-session-final": "true"}),
        ({}, {"X-Dynamo-Session-Final": "1"}),
    ],
)
def test_a_client_may_say_that_a_turn_is_its_last(body, headers):
    assert identify({"program_id": "a", **body}, headers).last


@pytest.mark.parametrize(
    ("body", "headers"),
    [({}, {}), ({"is_last_step": "yes"}, {}), ({"is_last_step": False}, {}), ({}, {"x-dynamo-session-final": "false"})],
)
def test_or_not(body, headers):
    assert not identify({"program_id": "a", **body}, headers).last


def test_tools_and_hints():
    hints = {"agent_hints": {"osl": 300, "priority": -2}, "cache_control": {"ttl": "1h"}}
    found = identify({"program_id": "a", "last_func_call": "bash", "this_func_call": "edit", "nvext": hints}, {})
    assert (found.tool, found.next_tool) == ("bash", "edit")
    assert (found.expected_output_tokens, found.priority) == (300, -2)


@pytest.mark.parametrize("osl", [-1, 0, "many", 1.5, True, 2**40, None])
@pytest.mark.parametrize("priority", ["high", 1.5, True, 2**40, {}])
def test_bad_hints_are_ignored(osl, priority):
    found = identify({"program_id": "a", "nvext": {"agent_hints": {"osl": osl, "priority": priority}}}, {})
    assert (found.program, found.expected_output_tokens, found.priority) == ("a", None, None)


@pytest.mark.parametrize(
    ("body", "headers", "turns"),
    [
        ({"nvext": {"agent_hints": {"remaining_turns": 12}}}, {}, 12),
        ({"extra_body": {"nvext": {"agent_hints": {"remaining_turns": 12}}}}, {}, 12),
        ({}, {"X-Mars-Remaining-Turns": "12"}, 12),
        ({}, {"x-mars-remaining-turns": "0"}, 0),
        ({"nvext": {"agent_hints": {"remaining_turns": 3}}}, {"x-mars-remaining-turns": "12"}, 3),
        ({"nvext": {"agent_hints": {"remaining_turns": "soon"}}}, {"x-mars-remaining-turns": "12"}, 12),
        ({}, {}, None),
    ],
)
def test_a_client_may_say_how_many_turns_are_to_come(body, headers, turns):
    assert identify({"program_id": "a", **body}, headers).remaining_turns == turns


@pytest.mark.parametrize("turns", [-1, "-1", "", "many", 1.5, "1.5", True, 2**40, "9" * 400, "١٢", None, [3]])
def test_a_number_of_turns_that_is_none_is_ignored(turns):
    found = identify({"program_id": "a", "nvext": {"agent_hints": {"remaining_turns": turns}}}, {})
    assert (found.program, found.remaining_turns) == ("a", None)


# -- whose share it takes


def test_shares_are_of_the_key_and_without_one_of_the_name_that_a_header_gives():
    def tenant(**headers):
        return identify({}, {name.replace("_", "-"): value for name, value in headers.items()}).tenant

    keyed = tenant(authorization="Bearer secret")
    assert len(keyed) == 12 and "secret" not in keyed
    assert keyed == tenant(authorization="Bearer secret", X_Mars_Tenant="other"), "nobody with a key takes a name"
    assert keyed != tenant(x_api_key="k") != ""
    assert tenant(X_Mars_Tenant="team") == "@team" and tenant() == tenant(x_mars_tenant="") == ""
    assert tenant(x_mars_tenant="x" * 65) == "", "no name"


def test_a_program_is_its_keys_and_the_tenant_header_changes_no_id():
    plain = identify({"program_id": "a"}, {"authorization": "Bearer one"})
    assert plain.program == f"{plain.tenant}/a"
    assert identify({"program_id": "a"}, {"x-mars-tenant": "team"}).program == "a"


# -- a table of one's own


def written(folder: Path, text: str) -> Path:
    path = folder / "ids.toml"
    path.write_text(text)
    return path


def test_own_sources_go_before_the_shipped_ones(tmp_path):
    own = load_sources(written(tmp_path, '[[source]]\nheader = "X-Acme-Run"\nlevel = "program"\n'))
    assert identify({}, {"x-acme-run": "r"}, own).recognised_by == "header x-acme-run"
    assert identify({"job_id": "j"}, {}, own).program == "j"
    assert identify({}, {"x-acme-run": "r"}).program is None


def test_an_own_source_changes_what_a_shipped_place_means(tmp_path):
    own = load_sources(written(tmp_path, '[[source]]\nbody = "prompt_cache_key"\nlevel = "group"\n'))
    assert identify({"prompt_cache_key": "k"}, {}, own).program is None


def test_a_table_may_replace_the_shipped_one(tmp_path):
    own = load_sources(
        written(tmp_path, 'replace = true\n[[source]]\nheader = "x-*-run"\nlevel = "root"\n'),
    )
    assert identify({"program_id": "p"}, {"x-acme-run": "r"}, own).program == "r"
    assert len(own.table) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("source = 1", "source = 1; accepted: [[source]] tables"),
        ("replace = 1", "replace = 1; accepted: true, false"),
        ("colour = 1", "colour is unknown; accepted: replace, source"),
        (
            '[[source]]\nheader = "a"\nlevel = "boss"',
            "source 1: level = 'boss'; accepted: program, child, root, parent",
        ),
        ('[[source]]\nlevel = "program"', "source 1: has body = None and header = None; accepted: one of them"),
        ('[[source]]\nheader = "a"\nbody = "b"\nlevel = "program"', "body = 'b' and header = 'a'; accepted: one of"),
        (
            '[[source]]\nheader = "x-*-*"\nlevel = "program"',
            "header = 'x-*-*'; accepted: a header name with at most one",
        ),
        ('[[source]]\nbody = "a..b"\nlevel = "program"', "body = 'a..b'; accepted: field names with a dot"),
        ('[[source]]\nbody = 3\nlevel = "program"', "body = 3; accepted: field names"),
        ('[[source]]\nbody = "a"\nlevel = "program"\nttl = 3', "source 1: ttl is unknown; accepted: level and one of"),
        ('[[source]]\nbody = "user.id"\nlevel = "group"', "need the same field as text and as object"),
        ("[[source", "accepted: a TOML file with [[source]] tables"),
    ],
)
def test_errors_in_a_table_name_file_key_value_and_what_is_accepted(tmp_path, text, says):
    path = written(tmp_path, text)
    with pytest.raises(SourcesError) as raised:
        load_sources(path)
    assert str(path) in str(raised.value)
    assert says in str(raised.value)


def test_a_missing_table_is_an_error(tmp_path):
    with pytest.raises(SourcesError, match=r"none\.toml"):
        load_sources(tmp_path / "none.toml")


def test_the_shipped_table_is_found_beside_the_code():
    assert isinstance(SHIPPED, Sources)
    assert len(SHIPPED.table) > 30
