#!/bin/sh
# deploy/build.sh [FOLDER] - release build into FOLDER (default: build beside this repository's meson.build). It installs nothing:
# deploy/setup.sh does.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
build=${1:-$root/build}
missing=$("$root/deploy/setup.sh" --missing)
if [ -n "$missing" ]; then
    echo "deploy/build.sh: not installed: $missing; deploy/setup.sh installs them" >&2
    exit 1
fi
[ -f "$build/build.ninja" ] || meson setup "$build" "$root" >"$build.log" 2>&1 || {
    cat "$build.log" >&2
    exit 1
}
rm -f "$build.log"
ninja -C "$build" >&2
