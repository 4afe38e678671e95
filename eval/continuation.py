"""Are agents that send no id told apart? Plays whole workloads to the recognition by continuation.

Each program of a workload is run by two agents at once that begin with the same prompt, get the same
answers for a while, and then different ones, their turns in any order. Then all programs run at once, with
the system prompts that they share. Each turn has to be found to be of the program that its own agent used
last; where two agents have had exactly the same prompts and answers, either one's program is right.

    python -m eval.continuation --workload swebench --workload claude-code
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np

from eval.replay.conversation import Conversation
from eval.replay.filler import Filler, SharedText
from eval.replay.ruler import Ruler
from eval.workload import Program, WorkloadError, load
from mars_sglang.core import continuation, histories, prompt
from mars_sglang.core.continuation import FIRST, Continuations, Match
from mars_sglang.core.prompt import answer_of, prompt_of

#: Makes a prompt of 100K tokens 400 KB long, as code and prose are; the filler has 6 characters a word.
WORD_TOKENS = 1.5
#: For counting memory, which does not depend on how long the messages are.
SHORT_WORD_TOKENS = 64.0
#: Prompts per workload whose tokenization is timed.
TOKENIZED = 40

UNKNOWN = Match("", FIRST, 0)
"""A text too short to be looked up."""

Body = Callable[[bytes], dict]
"""From a JSON list of messages to the body of a request."""


def chat_body(messages: bytes) -> dict:
    return {"messages": msgspec.json.decode(messages)}


def text_body(messages: bytes) -> dict:
    """The same conversation as one text, as a client of ``/generate`` writes it."""
    listed = msgspec.json.decode(messages)
    turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in listed]
    return {"text": "".join(turns) + "<|im_start|>assistant\n"}


State = tuple[int, int] | None
"""Length and hash of a prompt with its answer; None before the first."""


@dataclass
class Outcome:
    """What happened to the turns of one or more programs."""

    turns: int = 0
    first: int = 0
    """Turns that rightly opened a program."""
    whole: int = 0
    """Continuations whose prompt extends the whole of the turn before."""
    whole_recognised: int = 0
    cut: int = 0
    """Continuations whose history was rewritten."""
    cut_recognised: int = 0
    wrong: int = 0
    """Turns taken for another agent's."""
    request_s: list[float] = field(default_factory=list)
    characters: list[int] = field(default_factory=list)

    @property
    def new_programs(self) -> int:
        return self.first + self.whole - self.whole_recognised + self.cut - self.cut_recognised


class Agent:
    """One agent at work on a program; its answers are its own from turn ``parts_at`` on."""

    def __init__(self, name: str, program: Program, parts_at: int, shared: SharedText, word_tokens: float, body: Body):
        self.name = name
        self._program = program
        self._parts_at = parts_at
        self._talk = Conversation(program, 0, Ruler(per_word=word_tokens), shared)
        self._words = word_tokens
        self._body = body
        self.state: State = None

    def turns(self, known: Continuations, used: dict[str, tuple[Agent, State]], outcome: Outcome) -> Iterator[None]:
        """One turn after the other. Pauses after each step, for other agents to take theirs.

        Args:
            used: by program, the agent that used it last and where its history ended then.
        """
        for number, turn in enumerate(self._program.turns):
            asked = self._talk.ask(turn)
            body = self._body(asked.messages)
            began = time.perf_counter()
            asking = prompt_of(body)
            match = known.begin("", asking) if asking else UNKNOWN
            took = time.perf_counter() - began
            self._count(outcome, number, asked.messages, match, used)
            used[match.program] = (self, self.state)
            yield
            writer = self.name if number >= self._parts_at else "any"
            text = Filler(number, f"{self._program.id} {writer}").words(max(1, int(turn.out_tokens / self._words)))
            answer = text.decode()
            self._talk.answered(answer, round(asked.expected_tokens), turn.out_tokens)
            began = time.perf_counter()
            if asking:
                known.ended(match.program, asking, answer_of(answer))
            outcome.request_s.append(took + time.perf_counter() - began)
            outcome.characters.append(len(asked.messages))
            whole = asked.messages[:-1] + b',{"role":"assistant","content":' + json.dumps(answer).encode() + b"}"
            self.state = (len(whole), hash(whole))
            used[match.program] = (self, self.state)
            yield

    def _count(
        self, outcome: Outcome, number: int, messages: bytes, match: Match, used: dict[str, tuple[Agent, State]]
    ) -> None:
        outcome.turns += 1
        recognised = match.how != FIRST
        if recognised:
            agent, state = used[match.program]
            outcome.wrong += agent is not self and state != self.state
        if number == 0:
            outcome.first += not recognised
        elif hash(messages[: self.state[0]]) == self.state[1]:
            outcome.whole += 1
            outcome.whole_recognised += recognised
        else:
            outcome.cut += 1
            outcome.cut_recognised += recognised


def play(agents: Iterable[Agent], known: Continuations, outcome: Outcome, rng: random.Random) -> None:
    """The steps of all agents, in a random order."""
    used: dict[str, tuple[Agent, State]] = {}
    going = [agent.turns(known, used, outcome) for agent in agents]
    while going:
        index = rng.randrange(len(going))
        if next(going[index], going) is going:
            going[index] = going[-1]
            going.pop()


def in_pairs(
    programs: list[Program], word_tokens: float = WORD_TOKENS, body: Body = chat_body, seed: int = 0
) -> Outcome:
    """Two agents for each program, which part at any of its turns."""
    outcome, rng, shared = Outcome(), random.Random(seed), SharedText()
    for program in programs:
        parts_at = rng.randrange(len(program.turns))
        agents = [Agent(name, program, parts_at, shared, word_tokens, body) for name in "ab"]
        play(agents, Continuations(), outcome, rng)
    return outcome


def at_once(
    programs: list[Program], word_tokens: float = WORD_TOKENS, body: Body = chat_body, seed: int = 0
) -> Outcome:
    """One agent for each program, all at work together."""
    outcome, shared = Outcome(), SharedText()
    agents = [Agent(program.id, program, 0, shared, word_tokens, body) for program in programs]
    play(agents, Continuations(), outcome, random.Random(seed))
    return outcome


def memory_bytes(programs: list[Program], seed: int = 0) -> int:
    """What recognition holds when all programs have ended."""
    known, shared = Continuations(), SharedText()
    agents = [Agent(program.id, program, 0, shared, SHORT_WORD_TOKENS, chat_body) for program in programs]
    tracemalloc.start()
    try:
        play(agents, known, Outcome(), random.Random(seed))
        agents.clear()
        gc.collect()
        ours = [tracemalloc.Filter(True, module.__file__) for module in (continuation, histories, prompt)]
        held = tracemalloc.take_snapshot().filter_traces(ours).statistics("filename")
    finally:
        tracemalloc.stop()
    return sum(statistic.size for statistic in held)


def share_of_tokenizing(programs: list[Program], seed: int = 0) -> tuple[float, float]:
    """Seconds per request of recognition and of the emulated server's tokenizer, for the same prompts."""
    from tokenizers import Tokenizer

    from eval import defaults
    from mars_sglang.emulation.model_folder import model_folder
    from mars_sglang.emulation.profiles import load_profile

    tokenizer = Tokenizer.from_file(str(model_folder(load_profile(defaults.PROFILE)) / "tokenizer.json"))
    rng, shared, ours_s, theirs_s = random.Random(seed), SharedText(), 0.0, 0.0
    sample = rng.sample(programs, min(TOKENIZED, len(programs)))
    for program in sample:
        known = Continuations()
        stop = rng.randrange(len(program.turns))
        outcome = Outcome()
        bodies: list[dict] = []

        def body(messages: bytes, bodies: list[dict] = bodies) -> dict:
            bodies[:] = [chat_body(messages)]
            return bodies[0]

        agent = Agent("a", program.cut(stop + 1), 0, shared, WORD_TOKENS, body)
        for _ in agent.turns(known, {}, outcome):
            pass
        text = "".join(message["content"] for message in bodies[0]["messages"])
        began = time.perf_counter()
        tokenizer.encode(text)
        theirs_s += time.perf_counter() - began
        ours_s += outcome.request_s[-1]
    return ours_s / len(sample), theirs_s / len(sample)


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``python -m eval.continuation``; 1 where a turn was taken for another agent's."""
    parser = argparse.ArgumentParser(prog="python -m eval.continuation", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--workload", action="append", metavar="NAME", help="may be given again (swebench, claude-code)"
    )
    parser.add_argument("--programs", type=int, metavar="N", help="only the first N of each workload")
    parser.add_argument("--text", action="store_true", help="prompts as one text, as to /generate")
    options = parser.parse_args(argv)
    body = text_body if options.text else chat_body
    wrong = 0
    for name in options.workload or ("swebench", "claude-code"):
        try:
            programs = load(name)[: options.programs]
        except WorkloadError as error:
            print(f"continuation: error: {error}", file=sys.stderr)
            return 2
        for way, play_all in (("pairs", in_pairs), ("all at once", at_once)):
            outcome = play_all(programs, body=body)
            wrong += outcome.wrong
            _print(f"{name}, {way}", outcome)
        ours_s, theirs_s = share_of_tokenizing(programs)
        print(
            f"  memory {memory_bytes(programs) / 2**20:.1f} MiB for {len(programs)} programs; "
            f"{ours_s * 1e6:.0f} us against {theirs_s * 1e3:.1f} ms of tokenizing: {ours_s / theirs_s:.2%}",
            flush=True,
        )
    return 1 if wrong else 0


def _print(title: str, outcome: Outcome) -> None:
    times = np.array(outcome.request_s) * 1e6
    print(
        f"{title}: {outcome.turns} turns, {outcome.first} first ones; extending their last turn {outcome.whole}, "
        f"recognised {outcome.whole_recognised}; rewritten {outcome.cut}, recognised {outcome.cut_recognised}; "
        f"new programs {outcome.new_programs}; wrong {outcome.wrong}\n"
        f"  per request: mean {times.mean():.0f} us, p99 {np.quantile(times, 0.99):.0f} us, "
        f"mean prompt {np.mean(outcome.characters) / 1e3:.0f} KB",
        flush=True,
    )


if __name__ == "__main__":
    raise SystemExit(main())
