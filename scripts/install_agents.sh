#!/usr/bin/env bash
# Installs the agents that the tests drive, each in an environment of its own: their dependencies would clash with ours.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: scripts/install_agents.sh [FOLDER]

Makes FOLDER/openhands (openhands-sdk, openhands-tools; Python 3.12 or newer) and FOLDER/mini (mini-swe-agent; Python
3.11 or newer), in the versions that the tests ran with. Without FOLDER they go where the tests look for them:
${XDG_CACHE_HOME:-~/.cache}/mars-sglang/agents. For another place set
MARS_AGENTS_OPENHANDS_PYTHON=FOLDER/openhands/bin/python and MARS_AGENTS_MINI_PYTHON=FOLDER/mini/bin/python.
Uses uv where it is installed, else venv and pip. Does nothing, quickly, where nothing is missing.
USAGE
}

case "${1:-}" in
    -h | --help) usage; exit 0 ;;
    -*) echo "install_agents.sh: error: '$1' is unknown; accepted: a folder" >&2; exit 2 ;;
esac
folder="${1:-${XDG_CACHE_HOME:-$HOME/.cache}/mars-sglang/agents}"

# The first of these interpreters, on the PATH or pyenv's, that is there and at least as new as wanted.
interpreter() {
    local wanted="$1" name
    for name in python3 python3.12 python3.13 python3.14 python3.11 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3; do
        if command -v "$name" >/dev/null &&
            "$name" -c "import sys; sys.exit(sys.version_info[:2] < (${wanted/./, }))" 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    return 1
}

# environment NAME PYTHON REQUIREMENT...
environment() {
    local venv="$folder/$1" wanted="$2" python
    shift 2
    if [[ -x "$venv/bin/python" ]] && "$venv/bin/python" -I - "$@" <<'PYTHON'
import sys
from importlib import metadata

for requirement in sys.argv[1:]:
    name, _, version = requirement.partition("==")
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        sys.exit(1)
    if version and found != version:
        sys.exit(1)
PYTHON
    then
        return
    fi
    echo "install_agents.sh: installing $* into $venv"
    if command -v uv >/dev/null; then
        # What is installed first: uv would fetch the newest from the internet.
        [[ -x "$venv/bin/python" ]] || uv venv --quiet --python "$(interpreter "$wanted" || echo ">=$wanted")" "$venv"
        uv pip install --quiet --python "$venv/bin/python" "$@"
    else
        if [[ ! -x "$venv/bin/python" ]]; then
            python="$(interpreter "$wanted")" || {
                echo "install_agents.sh: error: no Python $wanted or newer is here; install one, or uv, which fetches it" >&2
                return 1
            }
            "$python" -m venv "$venv"
        fi
        "$venv/bin/python" -m pip install --quiet "$@"
    fi
}

environment openhands 3.12 openhands-sdk==1.58.0 openhands-tools==1.58.0 pyzmq msgspec
# mini-swe-agent imports mcp, through litellm, and does not name it.
environment mini 3.11 mini-swe-agent==2.4.6 mcp pyzmq msgspec
