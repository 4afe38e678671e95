"""Turns of clients that send no id are found to be of the program that they continue, or of none."""

import json

import pytest

from mars_sglang.core.continuation import ANSWER, FIRST, HISTORY, RESPONSE, RETRY, Continuations
from mars_sglang.core.prompt import BLOCK_CHARACTERS, BLOCK_TOKENS, MAX_MARKS, answer_of, prompt_of


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "You are an agent."}
TASK = [SYSTEM, user("Fix the bug.")]


class Client:
    """Sends turns to one server and remembers nothing of them."""

    def __init__(self, known=None, group=""):
        self.known = Continuations() if known is None else known
        self.group = group

    def begin(self, messages, **body):
        self.prompt = prompt_of({"messages": messages, **body} if isinstance(messages, list) else messages)
        return self.known.begin(self.group, self.prompt)

    def turn(self, messages, text="", calls=(), response=None):
        """A turn with its answer; how it was recognised."""
        match = self.begin(messages)
        self.known.ended(match.program, self.prompt, answer_of(text, calls), response)
        return match


def test_a_prompt_that_extends_the_whole_last_turn_continues_it():
    client = Client()
    first = client.turn(TASK, "ls")
    second = client.turn([*TASK, assistant("ls"), user("a.py")], "cat a.py")
    third = client.turn([*TASK, assistant("ls"), user("a.py"), assistant("cat a.py"), user("...")])
    assert [match.how for match in (first, second, third)] == [FIRST, ANSWER, ANSWER]
    assert {match.program for match in (first, second, third)} == {"continuation/1"}
    assert [match.turns for match in (first, second, third)] == [0, 1, 2]


def test_equal_first_prompts_are_different_programs_told_apart_by_their_answers():
    client = Client()
    one, two = client.turn(TASK, "ls"), client.turn(TASK, "pwd")
    assert one.program != two.program
    assert client.turn([*TASK, assistant("pwd"), user("/")]).program == two.program
    assert client.turn([*TASK, assistant("ls"), user("a.py")]).program == one.program


def called(history, call_id, step, result):
    """The history after a tool call and its result."""
    call = {"id": call_id, "type": "function"}
    call["function"] = {"name": "bash", "arguments": json.dumps({"command": f"ls {step}"})}
    answer = {"role": "assistant", "content": None, "tool_calls": [call]}
    return [*history, answer, {"role": "tool", "tool_call_id": call_id, "content": result}]


@pytest.mark.parametrize("alike", range(5))
def test_twins_are_told_apart_by_the_ids_of_their_calls_wherever_their_results_part(alike):
    """Both get the same answers; the second is always one turn behind the first."""
    known = Continuations()
    agents, histories, programs = [Client(known), Client(known)], [list(TASK), list(TASK)], [[], []]
    for step in range(6):
        for number, agent in enumerate(agents):
            if step - number not in range(5):
                continue
            turn = step - number
            match = agent.turn(histories[number], "", [("bash", {"command": f"ls {turn}"})])
            programs[number].append(match.program)
            result = "a.py" if turn < alike else f"{number}.py"
            histories[number] = called(histories[number], f"call_{number}_{turn}", turn, result)
    assert [len(set(names)) for names in programs] == [1, 1] and programs[0][0] != programs[1][0]


def test_a_return_to_an_earlier_turn_is_known_by_its_call():
    client, other = Client(known := Continuations()), Client(known)
    call = [("bash", {"command": "ls 0"})]
    first, twin = client.turn(TASK, "", call).program, other.turn(TASK, "", call).program
    assert client.turn(called(TASK, "call_a", 0, "a.py"), "done").program == first
    # The same call again with another result: not the twin's, whose call has another id.
    assert client.turn(called(TASK, "call_a", 0, "b.py"), "done").program != twin


def test_ids_that_a_model_counts_tell_nobody_apart():
    client, other = Client(known := Continuations()), Client(known)
    call = [("bash", {"command": "ls 0"})]
    programs = {client.turn(TASK, "", call).program, other.turn(TASK, "", call).program}
    assert client.turn(called(TASK, "bash:0", 0, "a.py"), "done").program in programs
    # Either the twin's first continuation or the first one come back: of neither.
    assert other.turn(called(TASK, "bash:0", 0, "b.py"), "done").program not in programs


def test_equal_turns_are_taken_once_each_and_the_oldest_first():
    client = Client()
    programs = [client.turn(TASK, "ls").program for _ in range(3)]
    following = [*TASK, assistant("ls"), user("a.py")]
    assert [client.begin(following).program for _ in range(3)] == programs
    assert client.begin(following).how == FIRST


def test_ids_depend_on_the_order_of_turns_alone():
    client = Client(Continuations("server-1"))
    assert [client.turn([user(text)]).program for text in "ab"] == ["server-1/1", "server-1/2"]


def test_a_turn_in_flight_is_not_continued():
    client = Client()
    first = client.begin(TASK)
    assert client.begin([*TASK, assistant("ls"), user("a.py")]).program != first.program


def test_groups_never_share_a_program():
    known = Continuations()
    one = Client(known, "tenant one").turn(TASK, "ls")
    two = Client(known, "tenant two").turn([*TASK, assistant("ls"), user("a.py")], "cat")
    assert (two.how, two.program != one.program) == (FIRST, True)


# -- failed turns


def test_a_failed_turn_that_comes_again_is_the_same_one():
    client = Client()
    first = client.begin(TASK)
    client.known.failed(first.program, client.prompt)
    again = client.turn(TASK, "ls")
    assert (again.program, again.how) == (first.program, RETRY)
    assert client.turn(TASK, "ls").how == FIRST, "an answered turn is not tried again"


def test_after_a_failed_turn_the_history_may_go_on_in_another_way():
    client = Client()
    first = client.turn(TASK, "ls")
    client.begin([*TASK, assistant("ls"), user("a.py")])
    client.known.failed(first.program, client.prompt)
    assert client.begin([*TASK, assistant("ls"), user("stop")]).program == first.program


# -- histories that clients alter


@pytest.mark.parametrize(
    ("answered", "sent_back"),
    [
        (" ls\n", {"role": "assistant", "content": "ls"}),
        ("<think>hm</think>\nls", {"role": "assistant", "content": "ls"}),
        ("ls", {"role": "assistant", "content": "ls", "reasoning_content": "hm", "tool_calls": None}),
        ("ls", {"role": "assistant", "content": [{"type": "text", "text": "ls", "cache_control": {"type": "x"}}]}),
        (
            "ls",
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "ls"}]},
        ),
    ],
)
def test_an_answer_is_the_same_however_it_is_sent_back(answered, sent_back):
    client = Client()
    twin = client.turn(TASK, "pwd")
    first = client.turn(TASK, answered)
    again = client.turn([*TASK, sent_back, user("a.py")])
    assert (again.program, again.how) == (first.program, ANSWER)
    assert again.program != twin.program


@pytest.mark.parametrize(
    "sent_back",
    [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "function": {"name": "run", "arguments": '{"b": "\\u00e9", "a": 1}'}}],
        },
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "run", "arguments": {"a": 1, "b": "é"}}}
            ],
        },
        {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "run", "input": {"a": 1, "b": "é"}}]},
    ],
)
def test_tool_calls_are_compared_by_name_and_arguments(sent_back):
    client = Client()
    client.turn(TASK, "", [("run", '{"a": 2}')])
    first = client.turn(TASK, None, [("run", '{"a":1,"b":"é"}')])
    again = client.turn([*TASK, sent_back, {"role": "tool", "tool_call_id": "1", "content": "ok"}])
    assert (again.program, again.how) == (first.program, ANSWER)


def test_marks_for_caching_may_move_from_message_to_message():
    def marked(text):
        return user([{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}])

    client = Client()
    first = client.turn([SYSTEM, marked("Fix the bug.")], "ls")
    assert client.turn([*TASK, assistant("ls"), marked("a.py")]).how == ANSWER
    assert first.program == "continuation/1"


def test_an_answer_that_cannot_be_compared_is_taken_where_one_program_asked_that():
    client = Client()
    first = client.begin(TASK)
    client.known.ended(first.program, client.prompt, None)
    again = client.turn([*TASK, assistant("whatever"), user("a.py")])
    assert (again.program, again.how) == (first.program, HISTORY)


def test_and_not_where_two_did():
    client = Client()
    for _ in range(2):
        match = client.begin(TASK)
        client.known.ended(match.program, client.prompt, None)
    assert client.turn([*TASK, assistant("whatever"), user("a.py")]).how == FIRST


LONG = [*TASK, assistant("ls"), user("a.py"), assistant("cat a.py"), user("import os"), assistant("run"), user("ok")]


def played(client, history, last="done"):
    """The turns of which ``history`` is the last prompt; the program."""
    for index, message in enumerate(history):
        if message["role"] == "assistant":
            client.turn(history[:index], message["content"])
    return client.turn(history, last).program


def test_a_history_cut_behind_the_first_answer_is_known_by_what_is_left():
    client = Client()
    program = played(client, LONG)
    again = client.turn([*LONG[:5], user("Summary: looked at a.py.")])
    assert (again.program, again.how) == (program, HISTORY)


def test_a_history_of_which_the_middle_was_summed_up_is_known_by_its_last_answer():
    client = Client()
    program = played(client, LONG)
    again = client.turn([*TASK, user("Summary: looked at a.py."), assistant("done"), user("tests fail")])
    assert (again.program, again.how) == (program, HISTORY)


def test_a_history_cut_to_what_programs_share_is_a_new_program():
    client = Client()
    played(client, LONG)
    assert client.turn([*TASK, user("Summary: looked at a.py.")]).how == FIRST
    assert client.turn([SYSTEM, user("Fix")]).how == FIRST


def test_a_history_cut_to_what_two_programs_share_is_a_new_program():
    client = Client()
    one = played(client, LONG)
    two = played(client, [*LONG[:5], user("import sys"), assistant("run"), user("ok")])
    assert one != two
    assert client.turn([*LONG[:4], assistant("cat b.py"), user("no such file")]).how == FIRST
    assert client.turn([*LONG[:5], user("Summary")]).how == FIRST


def test_where_one_agent_went_on_and_another_like_it_waits_a_different_next_step_is_of_neither():
    client = Client()
    ahead = played(client, LONG)
    behind = played(client, LONG[:4], "cat a.py")
    assert behind != ahead
    assert client.turn([*LONG[:5], user("import sys")]).how == FIRST  # the first may have come back
    assert client.turn(LONG[:6]).program == behind  # word for word what the first sent: it lags


# -- other endpoints


def test_anthropic_conversations_are_recognised():
    client = Client()
    system = [{"type": "text", "text": "You are Claude Code.", "cache_control": {"type": "ephemeral"}}]
    first = client.turn({"system": system, "messages": [user("Fix it.")]}, "I look.", [("Bash", '{"command": "ls"}')])
    block = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls"}}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "I look."}, block]}
    result = user([{"type": "tool_result", "tool_use_id": "t1", "content": "a.py"}])
    second = client.turn({"system": system, "messages": [user("Fix it."), answer, result]})
    assert (second.program, second.how) == (first.program, ANSWER)


def test_items_of_the_responses_endpoint_are_recognised():
    client = Client()
    first = client.turn({"instructions": "Be brief.", "input": "Fix it."}, "I look.", [("shell", '{"cmd": "ls"}')])
    items = [
        {"role": "user", "content": "Fix it."},
        {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "c", "name": "shell", "arguments": '{"cmd":"ls"}'},
        {"type": "function_call_output", "call_id": "c", "output": "a.py"},
    ]
    second = client.turn({"instructions": "Be brief.", "input": items})
    assert (second.program, second.how) == (first.program, ANSWER)


def test_a_client_that_names_an_earlier_response_continues_its_program():
    client = Client()
    first = client.turn({"input": "Fix it."}, "Done.", response="resp_1")
    other = client.turn({"input": "Fix it."}, "Done.", response="resp_2")
    again = client.turn({"input": "And now?", "previous_response_id": "resp_1"}, response="resp_3")
    assert (again.program, again.how) == (first.program, RESPONSE)
    assert other.program != first.program
    assert client.turn({"input": "More.", "previous_response_id": "resp_3"}).program == first.program
    assert client.turn({"input": "More.", "previous_response_id": "resp_9"}).how == FIRST


@pytest.mark.parametrize("field", ["text", "prompt"])
@pytest.mark.parametrize("length", [BLOCK_CHARACTERS, 2 * BLOCK_CHARACTERS - 1, 3 * BLOCK_CHARACTERS + 7])
@pytest.mark.parametrize("answer", ["ls", "x" * (2 * BLOCK_CHARACTERS), " ls\n"])
def test_raw_text_is_continued_by_what_starts_with_prompt_and_answer(field, length, answer):
    client = Client()
    text = "a" * length
    other = client.turn({field: text}, "pwd")
    first = client.turn({field: text}, answer)
    again = client.turn({field: text + answer.rstrip() + "<|im_end|>\nuser: a.py"})
    assert (again.program, again.how) == (first.program, ANSWER)
    assert client.turn({field: text}).program not in (first.program, other.program)


def test_token_ids_are_continued_by_what_starts_with_the_whole_prompt():
    client = Client()
    ids = list(range(3 * BLOCK_TOKENS + 5))
    first = client.turn({"input_ids": ids}, "unknown ids")
    again = client.turn({"input_ids": [*ids, 7, 7, 7]})
    assert (again.program, again.how) == (first.program, HISTORY)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": "short"},
        {"text": ["a" * 999, "b" * 999]},
        {"input_ids": [[1] * 999]},
        {"prompt": ["a" * 999]},
        {"messages": ["not a message"]},
        {"messages": [{"role": "assistant", "content": 7}]},
        {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
        {"input": 7},
    ],
)
def test_what_cannot_be_compared_is_no_prompt(body):
    assert prompt_of(body) is None


# -- bounds


def test_programs_heard_from_longest_ago_are_forgotten():
    client = Client(Continuations(max_programs=2))
    for task in "abc":
        client.turn([user(task)], "ls")
    assert len(client.known) == 2
    assert client.turn([user("a"), assistant("ls"), user("x")]).how == FIRST
    assert client.turn([user("c"), assistant("ls"), user("x")]).how == ANSWER


def test_marks_of_all_programs_are_bounded():
    client = Client(Continuations(max_marks=100))
    for task in range(50):
        history = [user(f"task {task}")]
        for step in range(6):
            client.turn(history, f"step {step}")
            history = [*history, assistant(f"step {step}"), user("ok")]
    assert 0 < len(client.known) < 50
    assert client.known._marks == sum(program.size() for program in client.known._programs.values()) <= 100


def test_a_history_longer_than_the_marks_that_are_kept_is_still_recognised():
    client = Client()
    history = [*TASK]
    for step in range(MAX_MARKS + 20):
        history = [*history, assistant(f"step {step}"), user("ok")]
    first = client.turn(history, "done")
    again = client.turn([*history, assistant("done"), user("more")])
    assert (again.program, again.how) == (first.program, ANSWER)


def test_nothing_is_left_of_programs_that_are_forgotten():
    client = Client()
    for history in (LONG, [*LONG[:4], assistant("no"), user("ok")]):
        played(client, history)
    client.turn({"input": "x"}, "y", response="r")
    failing = client.begin([user("fails")])
    client.known.failed(failing.program, client.prompt)
    client.turn({"text": "a" * 999}, "b")
    group = client.known._groups[""]
    for program in list(client.known._programs):
        client.known.forget(program)
    assert (len(client.known), client.known._groups, client.known._marks) == (0, {}, 0)
    for left in (group.programs, group.said, group.owners, group.passed, group.responses):
        assert not left
    for ends in (group.asked, group.ended, group.failed):
        assert not ends._programs
        assert not ends._sizes


def test_the_end_of_a_forgotten_program_is_no_error():
    client = Client()
    match = client.begin(TASK)
    client.known.forget(match.program)
    client.known.ended(match.program, client.prompt, answer_of("ls"))
    client.known.failed(match.program, client.prompt)
    client.known.forget(match.program)


def test_a_body_is_looked_at_and_not_changed():
    body = {"messages": [SYSTEM, user([{"type": "text", "text": "x", "cache_control": {}}]), assistant("y")]}
    before = json.dumps(body)
    prompt_of(body)
    assert json.dumps(body) == before
