"""Runs one task with the OpenHands SDK as installed, in the interpreter that has it installed.

Its order: ``url`` (with ``/v1``), ``model``, ``key``, ``folder`` (the workspace), ``prompt``, and to report tools
``library``. ``driver.py`` beside it says what it writes; the report has ``conversation`` too.
"""

import os
import sys
from importlib.metadata import version

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("OPENHANDS_SUPPRESS_BANNER", "1")

from driver import Driver, tool_calls
from openhands.sdk import LLM, Conversation
from openhands.sdk.event import ActionEvent, MessageEvent, ObservationBaseEvent
from openhands.tools.preset.default import get_default_agent


class ReportedTools:
    """A callback of a conversation: an action is about to run when its event comes, and ran when its result does."""

    def __init__(self, tool_call) -> None:
        self.program = ""
        self._tool_call = tool_call
        self._running = {}

    def __call__(self, event) -> None:
        if isinstance(event, ActionEvent) and event.tool_name not in ("finish", "think"):
            command = event.action.command if event.tool_name == "terminal" else None
            call = self._tool_call(self.program, event.tool_name, command)
            self._running[event.tool_call_id] = call
            call.start()
        elif isinstance(event, ObservationBaseEvent) and event.tool_call_id in self._running:
            self._running.pop(event.tool_call_id).end()


def main() -> int:
    """Exit status 0 when the agent finished."""
    driver = Driver()
    order = driver.order()
    llm = LLM(model=f"openai/{order['model']}", base_url=order["url"], api_key=order["key"], num_retries=2)
    # The terminal and file editor of the SDK's command line; its third tool needs a browser.
    agent = get_default_agent(llm=llm, cli_mode=True)
    tool_call = tool_calls(order)
    reported = None if tool_call is None else ReportedTools(tool_call)
    callbacks = [] if reported is None else [reported]
    conversation = Conversation(agent=agent, workspace=order["folder"], visualizer=None, callbacks=callbacks)
    if reported is not None:
        reported.program = str(conversation.id)
    ended = ""
    try:
        conversation.send_message(order["prompt"])
        conversation.run()
    except Exception as error:
        ended = f"{type(error).__name__}: {error}"
    answers = {
        event.llm_response_id if isinstance(event, ActionEvent) else event.id
        for event in conversation.state.events
        if isinstance(event, ActionEvent) or (isinstance(event, MessageEvent) and event.source == "agent")
    }
    report = {
        "agent": "openhands-sdk",
        "version": version("openhands-sdk"),
        "conversation": str(conversation.id),
        "turns": len(answers),
        "ended": ended or conversation.state.execution_status.value,
    }
    conversation.close()
    driver.tell("report", report)
    return 0 if report["ended"] == "finished" else 1


if __name__ == "__main__":
    sys.exit(main())
