#!/bin/bash
# tests/oracle/venv.sh [PACKAGE...] - prints the path of a Python that has these packages (all of
# requirements.txt without arguments) in the pinned versions. What is missing is installed into
# ${BLIPREN_VENV:-$HOME/.cache/blipren/venv} first: seconds for most, minutes and 4 GB for torch.
set -euo pipefail

requirements=$(dirname "$(readlink -f "$0")")/requirements.txt
venv=${BLIPREN_VENV:-$HOME/.cache/blipren/venv}
python=$venv/bin/python

wanted=()
for package in "${@:-}"; do
    mapfile -t -O ${#wanted[@]} wanted < <(grep -E "^${package:-[a-z-]+}==" "$requirements")
done
if [ ${#wanted[@]} -lt $# ]; then
    echo "venv.sh: not every package of \"$*\" is in $requirements" >&2
    exit 2
fi

has_all() {
    [ -x "$python" ] && "$python" - "${wanted[@]}" <<'PYTHON'
import sys
from importlib import metadata

for requirement in sys.argv[1:]:
    name, version = requirement.split("==")
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        sys.exit(1)
    if found.split("+")[0] != version:
        sys.exit(1)
PYTHON
}

mkdir -p "$(dirname "$venv")"
exec 9>"$venv.lock"
flock 9
if ! has_all; then
    [ -x "$python" ] || python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check "${wanted[@]}" >&2
fi
echo "$python"
