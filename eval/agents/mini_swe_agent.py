"""Runs one task with mini-swe-agent as installed, in the interpreter that has it installed.

Its order: ``url`` (with ``/v1``), ``model``, ``key``, ``folder`` (where commands run), ``prompt``, ``config`` (``mini``
for tool calls, ``mini_textbased`` for a fenced command in the text), ``command_limit_s``, and to report tools
``program`` and ``library``. ``driver.py`` beside it says what it writes.
"""

import os
import sys

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("MSWEA_SILENT_STARTUP", "1")

import minisweagent
import yaml
from driver import Driver, tool_calls
from minisweagent.agents.default import DefaultAgent
from minisweagent.environments.local import LocalEnvironment
from minisweagent.models.litellm_model import LitellmModel
from minisweagent.models.litellm_textbased_model import LitellmTextbasedModel

_MODELS = {"mini": LitellmModel, "mini_textbased": LitellmTextbasedModel}


def _reported(tool_call, program: str) -> type[LocalEnvironment]:
    class ReportedEnvironment(LocalEnvironment):
        def execute(self, action, cwd="", *, timeout=None):
            with tool_call(program, "bash", action["command"]):
                return super().execute(action, cwd, timeout=timeout)

    return ReportedEnvironment


def main() -> int:
    """Exit status 0 when the agent submitted."""
    driver = Driver()
    order = driver.order()
    config = yaml.safe_load((minisweagent.package_dir / "config" / f"{order['config']}.yaml").read_text())
    model_kwargs = config["model"]["model_kwargs"] | {"api_base": order["url"], "api_key": order["key"]}
    environment = LocalEnvironment
    if (tool_call := tool_calls(order)) is not None:
        model_kwargs["extra_headers"] = {"x-session-id": order["program"]}
        environment = _reported(tool_call, order["program"])
    model_config = config["model"] | {
        "model_name": f"openai/{order['model']}",
        "model_kwargs": model_kwargs,
        "cost_tracking": "ignore_errors",
    }
    agent = DefaultAgent(
        _MODELS[order["config"]](**model_config),
        environment(cwd=order["folder"], **config["environment"] | {"timeout": order["command_limit_s"]}),
        **config["agent"],
    )
    try:
        ended = agent.run(order["prompt"])["exit_status"]
    except Exception as error:
        ended = f"{type(error).__name__}: {error}"
    report = {"agent": "mini-swe-agent", "version": minisweagent.__version__, "turns": agent.n_calls, "ended": ended}
    driver.tell("report", report)
    return 0 if ended == "Submitted" else 1


if __name__ == "__main__":
    sys.exit(main())
