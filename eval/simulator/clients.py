"""The replayer's side in virtual time: programs arrive, ask, go into their tools and come back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from eval.replay.arrivals import Arrivals
from eval.replay.record import ProgramRecord, TurnRecord, recomputed
from eval.simulator.cache import Node
from eval.simulator.events import Agenda
from eval.simulator.request import Request
from eval.simulator.text import History
from eval.simulator.tools import ToolSlots
from eval.workload.program import HUMAN, Program

#: Why a program failed that SGLang gave up for want of memory, as the replayer calls it.
ABORTED = "aborted"

_CLIENT_TOKENS = 10_000


class Clients:
    """Every program of a run.

    Args:
        says_over: whether the last turn of a program says that it is the last.
        client_s: from the end of a tool until a next turn of 10,000 tokens is in the server's queue; it grows with the
            prompt, so of turns that are sent at one time the shortest comes first.
        submit: takes a turn to the server, at the agenda's time.
        ended: told of each turn that came back, and whether with an answer.
        tool_known: told what an answered program is inside of; None if nobody is to know.
        say: takes the event log's kind, program and figures.
    """

    def __init__(
        self, programs: Sequence[Program], arrivals: Arrivals, seed: int, max_pause_s: float, says_over: bool,
        client_s: float, root: Node, tools: ToolSlots, agenda: Agenda, say: Callable[..., None],
        submit: Callable[[Request], None], ended: Callable[[Request, bool], None],
        tool_known: Callable[[str, str], None] | None,
    ) -> None:  # fmt: skip
        self._agenda = agenda
        self._tools = tools
        self._max_pause_s = max_pause_s
        self._says_over = says_over
        self._client_s = client_s
        self._say = say
        self._submit, self._ended, self._tool_known = submit, ended, tool_known
        self._places = arrivals.concurrency
        self._line: deque[_Client] = deque()
        times = arrivals.times(len(programs), seed)
        self._clients = {
            program.id: _Client(program, float(at), root) for program, at in zip(programs, times, strict=True)
        }  # fmt: skip
        for client in self._clients.values():
            agenda.at(client.record.arrival_s, lambda client=client: self._arrive(client))

    @property
    def records(self) -> list[ProgramRecord]:
        """In the order of the programs."""
        return [client.record for client in self._clients.values()]

    def answered(self, request: Request) -> None:
        """A turn's last token is there."""
        client = self._clients[request.program]
        row = client.row(request, self._agenda.now)
        self._ended(request, True)
        program = client.program
        if request.number + 1 == len(program.turns):
            client.record.end_s = self._agenda.now
            self._say("done", program.id, client.record.makespan_s)
            self._leave()
            return
        turn = program.turns[request.number]
        row.tool = turn.tool
        seconds = turn.pause_s(self._max_pause_s)
        self._say("tool", program.id, turn.tool, seconds)
        if turn.tool == HUMAN:
            row.tool_s = seconds
            self._agenda.at(self._agenda.now + seconds, lambda: self._ask(client))
            return
        if self._tool_known is not None:
            self._tool_known(program.id, turn.tool)

        def back(waited_s: float) -> None:
            row.tool_wait_s, row.tool_s = waited_s, seconds
            self._ask(client)

        self._tools.run(seconds, back)

    def aborted(self, request: Request) -> None:
        """The engine gave a turn up; its program is over."""
        self._ended(request, False)
        record = self._clients[request.program].record
        record.failure, record.detail = ABORTED, f"no memory for {request.context} tokens"
        self._leave()

    def _arrive(self, client: _Client) -> None:
        if self._places == 0:
            self._line.append(client)
            return
        if self._places is not None:
            self._places -= 1
            client.record.arrival_s = self._agenda.now
        self._ask(client)

    def _leave(self) -> None:
        if self._places is None:
            return
        self._places += 1
        if self._line:
            self._arrive(self._line.popleft())

    def _ask(self, client: _Client) -> None:
        request = client.ask(self._agenda.now, self._client_s / _CLIENT_TOKENS)
        request.tool = client.program.turns[request.number].tool
        request.last = self._says_over and request.number + 1 == len(client.program.turns)
        self._say("ask", request.program, request.number, request.prompt_tokens)
        self._agenda.at(request.arrived_s, lambda: self._submit(request))


class _Client:
    """One program."""

    def __init__(self, program: Program, arrival_s: float, root: Node) -> None:
        self.program = program
        self.record = ProgramRecord(program.id, len(program.turns), arrival_s)
        self._history = History(program)
        self._hint = root
        self._context: int | None = None
        self._kept = 0
        self._sent_s = 0.0
        self._first_at_server_s: float | None = None

    def ask(self, now_s: float, client_s_per_token: float) -> Request:
        """The program's next turn, sent now."""
        number = len(self.record.turns)
        turn = self.program.turns[number]
        at_server_s = now_s + client_s_per_token * turn.in_tokens
        text, self._kept, equal = self._history.ask(turn)
        while self._hint.end > equal:
            self._hint = self._hint.parent
        self._sent_s = now_s
        if self._first_at_server_s is None:
            self._first_at_server_s = at_server_s
        return Request(
            self.program.id, number, text, turn.in_tokens, turn.out_tokens, at_server_s, self._first_at_server_s,
            self._hint,
        )  # fmt: skip

    def row(self, request: Request, now_s: float) -> TurnRecord:
        """The record of a turn that was answered now."""
        row = TurnRecord(
            program=request.program,
            turn=request.number,
            arrival_s=self._sent_s,
            sent_s=self._sent_s,
            first_token_s=request.first_token_s,
            last_token_s=now_s,
            traced_prompt_tokens=request.prompt_tokens,
            prompt_tokens=request.prompt_tokens,
            cached_tokens=request.cached_tokens,
            output_tokens=request.output,
            kept_tokens=float(self._kept),
            recomputed_tokens=recomputed(self._context, self._kept, request.prompt_tokens, request.cached_tokens),
        )
        self.record.turns.append(row)
        self._context = request.context
        self._hint = request.hint
        return row
