#!/bin/sh
# tests/run.sh - all tests: sets up, builds (release, with AddressSanitizer and UBSan, with ThreadSanitizer), runs every suite, and
# under the sanitizers what is quick (the GPU kernels there by the host shim alone). tests/evidence/badinput runs all of it under them.
# Ends with a line "N passed, N failed".
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root" || exit 1
deploy/setup.sh tests || exit 1
log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0
failed=0

# suite FOLDER WRAPPER… : runs meson test there and adds its counts.
suite() {
    folder=$1
    shift
    meson test -C "$folder" --print-errorlogs "$@" 2>&1 | tee "$log"
    ok=$(sed -n 's/^Ok: *\([0-9]*\).*/\1/p' "$log" | tail -n 1)
    bad=$(sed -n 's/^Fail: *\([0-9]*\).*/\1/p; s/^Timeout: *\([0-9]*\).*/\1/p; s/^Unexpected Pass: *\([0-9]*\).*/\1/p' "$log" |
        awk '{ sum += $1 } END { print sum + 0 }')
    if [ -z "$ok" ]; then
        ok=0
        bad=1
    fi
    passed=$((passed + ok))
    failed=$((failed + bad))
}

# build FOLDER OPTION… : configures and compiles; a failure counts as one failed test.
build() {
    folder=$1
    shift
    { [ -f "$folder/build.ninja" ] || meson setup "$folder" "$@"; } && ninja -C "$folder" && return 0
    failed=$((failed + 1))
    return 1
}

build build && suite build
export ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
build build-asan -Dcuda=disabled -Db_sanitize=address,undefined -Db_lundef=false -Dbuildtype=debugoptimized &&
    suite build-asan --suite unit --suite sanitized
build build-tsan -Dcuda=disabled -Db_sanitize=thread -Db_lundef=false -Dbuildtype=debugoptimized && suite build-tsan --suite sanitized

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
