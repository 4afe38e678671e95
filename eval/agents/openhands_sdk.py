"""Runs one task with the OpenHands SDK as installed, in the interpreter that has it installed.

Reads one JSON object from standard input: ``url`` (with ``/v1``), ``model``, ``folder`` (the workspace) and ``prompt``.
Writes one JSON line to standard output: ``agent``, ``version``, ``conversation``, ``turns`` and ``ended``. Imports
nothing of this project.
"""

import json
import os
import sys
from importlib.metadata import version

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("OPENHANDS_SUPPRESS_BANNER", "1")

from openhands.sdk import LLM, Conversation
from openhands.sdk.event import ActionEvent, MessageEvent
from openhands.tools.preset.default import get_default_agent


def main() -> int:
    """Exit status 0 when the agent finished."""
    order = json.load(sys.stdin)
    llm = LLM(model=f"openai/{order['model']}", base_url=order["url"], api_key="none", num_retries=0)
    # The terminal and file editor of the SDK's command line; its third tool needs a browser.
    agent = get_default_agent(llm=llm, cli_mode=True)
    conversation = Conversation(agent=agent, workspace=order["folder"], visualizer=None)
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
    print(json.dumps(report))
    return 0 if report["ended"] == "finished" else 1


if __name__ == "__main__":
    sys.exit(main())
