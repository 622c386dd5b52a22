#!/bin/sh
# tests/lint.sh - what no compiler says: layout (clang-format 14), arrows between rooms, cppcheck.
# A tool that is not installed is skipped by name. Ends with 1 when anything was found.
# clang-tidy takes minutes: `tests/lint.sh --tidy BUILD` runs it over BUILD's compile_commands.json as well.
set -u
cd "$(dirname "$0")/.." || exit 1
sources=$(git ls-files '*.c' '*.h' '*.cc' 2>/dev/null || true)
[ -n "$sources" ] || sources=$(find common proto coordinator loader worker deploy tests -name '*.[ch]' -o -name '*.cc')
bad=0

say() {
    echo "$1: $2"
    [ "$2" != FOUND ] || bad=1
}

layout() {
    command -v clang-format >/dev/null || { say layout "skipped, no clang-format"; return; }
    case $(clang-format --version) in
    *"version 14."*) ;;
    *) say layout "skipped, clang-format is not version 14"; return ;;
    esac
    if echo "$sources" | xargs clang-format --dry-run -Werror; then say layout ok; else say layout FOUND; fi
}

# Each room and what it may include besides the system's and libraries' headers; docs/design.md, Rooms.
arrows() {
    grep -H '^#include "' $sources | awk -F'[:"]' '
        BEGIN {
            may["common"] = "common/"
            may["proto"] = "proto/ common/"
            may["coordinator"] = "coordinator/ common/ proto/"
            may["loader"] = "loader/ common/ proto/"
            may["worker"] = "worker/[a-z_]*.h worker/model/ worker/comm/ worker/ops/ops.h common/ proto/"
            may["worker/model"] = "worker/model/ worker/ops/ops.h common/"
            may["worker/comm"] = "worker/comm/ common/"
            may["worker/ops"] = "worker/ops/ common/"
            may["deploy/demo"] = "deploy/demo/ common/"
            may["tests"] = "."
            excepted["worker/inference.c loader/image.h"] = 1
        }
        {
            file = $1; header = $3; room = ""
            for (r in may)
                if (index(file, r "/") == 1 && length(r) > length(room))
                    room = r
            count = split(may[room], allowed, " ")
            fits = (file " " header) in excepted
            for (i = 1; i <= count; i++)
                fits = fits || header ~ ("^" allowed[i])
            if (!fits || header !~ /\//) {
                print file ": room " room " may not include \"" header "\""
                bad = 1
            }
        }
        END { exit bad }' && say arrows ok || say arrows FOUND
}

# Rules are pure: no clock, no socket, no thread, no file.
purity() {
    pure=$(echo "$sources" | grep -E '(^|/)core\.[ch]$|^coordinator/ledger\.c$')
    if grep -nE '#include <(uv|zmq|time|unistd|pthread|fcntl|sys/.*)\.?h?>|[^_a-z](rand|time|clock_gettime|fopen|getenv)\(' $pure; then
        say purity FOUND
    else
        say purity ok
    fi
}

check() {
    command -v cppcheck >/dev/null || { say cppcheck "skipped, not installed"; return; }
    if echo "$sources" | grep '\.c$' | xargs cppcheck -q --std=c11 --language=c --enable=warning,performance,portability \
        --suppressions-list=tests/suppressions/cppcheck.txt --inline-suppr -I . --error-exitcode=1 \
        --library=tests/suppressions/jansson.cfg; then
        say cppcheck ok
    else
        say cppcheck FOUND
    fi
}

tidy() {
    command -v clang-tidy >/dev/null || { say clang-tidy "skipped, not installed"; return; }
    if echo "$sources" | grep '\.c$' | xargs clang-tidy --quiet -p "$1"; then say clang-tidy ok; else say clang-tidy FOUND; fi
}

layout
arrows
purity
check
[ "${1-}" != --tidy ] || tidy "$2"
exit $bad
