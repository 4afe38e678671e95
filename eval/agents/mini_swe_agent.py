"""Runs one task with mini-swe-agent as installed, in the interpreter that has it installed.

Reads one JSON object from standard input: ``url`` (with ``/v1``), ``model``, ``folder`` (where commands run),
``prompt`` and ``config`` (``mini`` for tool calls, ``mini_textbased`` for a fenced command in the text). Writes one
JSON line to standard output: ``agent``, ``version``, ``turns`` and ``ended``. Imports nothing of this project.
"""

import json
import os
import sys

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
os.environ.setdefault("MSWEA_SILENT_STARTUP", "1")

import minisweagent
import yaml
from minisweagent.agents.default import DefaultAgent
from minisweagent.environments.local import LocalEnvironment
from minisweagent.models.litellm_model import LitellmModel
from minisweagent.models.litellm_textbased_model import LitellmTextbasedModel

_MODELS = {"mini": LitellmModel, "mini_textbased": LitellmTextbasedModel}


def main() -> int:
    """Exit status 0 when the agent submitted."""
    order = json.load(sys.stdin)
    config = yaml.safe_load((minisweagent.package_dir / "config" / f"{order['config']}.yaml").read_text())
    model_config = config["model"] | {
        "model_name": f"openai/{order['model']}",
        "model_kwargs": config["model"]["model_kwargs"] | {"api_base": order["url"], "api_key": "none"},
        "cost_tracking": "ignore_errors",
    }
    agent = DefaultAgent(
        _MODELS[order["config"]](**model_config),
        LocalEnvironment(cwd=order["folder"], **config["environment"]),
        **config["agent"],
    )
    try:
        ended = agent.run(order["prompt"])["exit_status"]
    except Exception as error:
        ended = f"{type(error).__name__}: {error}"
    report = {"agent": "mini-swe-agent", "version": minisweagent.__version__, "turns": agent.n_calls, "ended": ended}
    print(json.dumps(report))
    return 0 if ended == "Submitted" else 1


if __name__ == "__main__":
    sys.exit(main())
