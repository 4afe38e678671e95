#!/usr/bin/env bash
# Installs mars-sglang from this checkout, and only what is missing of it.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: scripts/install.sh [EXTRA...]

Installs this checkout, editable, with the named extras (eval, test) into the active virtual
environment, else into .venv at the root of the checkout, which is made if it is not there.
Uses uv where it is installed, else pip. Does nothing, quickly, where nothing is missing.
USAGE
}

for argument in "$@"; do
    case "$argument" in
        -h | --help) usage; exit 0 ;;
        *[!A-Za-z0-9_-]* | -* | "")
            echo "install.sh: error: '$argument' is no extra; accepted: names of extras, such as eval" >&2
            exit 2
            ;;
    esac
done

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${VIRTUAL_ENV:-$root/.venv}"
if [[ ! -x "$venv/bin/python" ]]; then
    echo "install.sh: making a virtual environment in $venv"
    if command -v uv >/dev/null; then
        uv venv --quiet --python '>=3.11' "$venv"
    else
        python3 -m venv "$venv"
    fi
fi

# From the installed metadata, without importing anything: complete if this checkout is installed and all
# requirements, those of the extras included, are there in an accepted version. Isolated (-I), or build leftovers in
# the current directory would pass for an installation.
complete() {
    "$venv/bin/python" -I - "$root" "$@" <<'PYTHON'
import json, sys
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlparse

root, extras = Path(sys.argv[1]).resolve(), sys.argv[2:]
try:
    from packaging.requirements import Requirement
    package = metadata.distribution("mars-sglang")
except (ImportError, metadata.PackageNotFoundError):
    sys.exit(1)
origin = json.loads(package.read_text("direct_url.json") or "{}").get("url", "")
if Path(unquote(urlparse(origin).path)).resolve() != root:
    sys.exit(1)
unknown = sorted(set(extras) - set(package.metadata.get_all("Provides-Extra") or []))
if unknown:
    print(f"install.sh: error: no extra is named {unknown[0]!r}; accepted: "
          + ", ".join(package.metadata.get_all("Provides-Extra") or []), file=sys.stderr)
    sys.exit(3)
for text in package.requires or []:
    requirement = Requirement(text)
    if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in ["", *extras]):
        continue
    try:
        if not requirement.specifier.contains(metadata.version(requirement.name), prereleases=True):
            sys.exit(1)
    except metadata.PackageNotFoundError:
        sys.exit(1)
PYTHON
}

status=0
complete "$@" || status=$?
case "$status" in
    0) exit 0 ;;
    3) exit 2 ;;
esac

extras="$(IFS=,; echo "$*")"
target="$root${extras:+[$extras]}"
echo "install.sh: installing mars-sglang${extras:+[$extras]} into $venv (SGLang brings several GB on first use)"
if command -v uv >/dev/null; then
    uv pip install --quiet --python "$venv/bin/python" --editable "$target"
else
    "$venv/bin/python" -m pip install --quiet --editable "$target"
fi
if ! complete "$@"; then
    echo "install.sh: error: something is still missing after the installation; run pip check" >&2
    exit 1
fi
