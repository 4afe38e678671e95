#!/usr/bin/env bash
# Installs what is missing and runs the tests, two files at a time (-n 0: one after another). Arguments go to pytest, for
# example -m "not server".
set -euo pipefail

scripts="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$scripts")"

"$scripts/install.sh" test eval
cd "$root"
exec "${VIRTUAL_ENV:-$root/.venv}/bin/python" -m pytest -n 2 --dist loadfile "$@"
