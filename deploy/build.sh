#!/bin/sh
# deploy/build.sh [FOLDER] - set-up and release build into FOLDER (default: build beside this repository's meson.build).
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
build=${1:-$root/build}
"$root/deploy/setup.sh"
[ -f "$build/build.ninja" ] || meson setup "$build" "$root" >"$build.log" 2>&1 || {
    cat "$build.log" >&2
    exit 1
}
rm -f "$build.log"
ninja -C "$build" >&2
