#!/usr/bin/env bash
# Compares scheduling policies on real agents with real tools, on a GPU that is emulated. Options: --help.
set -euo pipefail

scripts="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$scripts")"

"$scripts/install.sh" eval test
"$scripts/install_agents.sh"
python="${VIRTUAL_ENV:-$root/.venv}/bin/python"
# From any directory: paths that a user gives stay relative to where they are; only the import path is ours.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m eval.agents.bench "$@"
