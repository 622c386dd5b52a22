#!/bin/sh
# tests/lint.sh - what no compiler says: layout (clang-format 14), arrows between rooms and within some, purity of the rules,
# cppcheck, shellcheck.
# Ends with 1 when anything was found, else with 77 when a tool is not installed (deploy/setup.sh tests installs them).
# clang-tidy takes minutes: `tests/lint.sh --tidy BUILD` runs it over BUILD's compile_commands.json as well.
# shellcheck disable=SC2013,SC2046,SC2086,SC2317  # lists of files are meant to be split; checks are called by name
set -u
cd "$(dirname "$0")/.." || exit 1
files=$(git ls-files 2>/dev/null) || files=$(find common proto coordinator loader worker deploy tests .ci -type f)
sources=$(echo "$files" | grep -E '\.(c|h|cc)$')
units=$(echo "$sources" | grep '\.c$')
status=0

# verdict NAME WORDS : what a check came to; FOUND and skipped count.
verdict() {
    echo "$1: $2"
    case $2 in
    FOUND) status=1 ;;
    skipped*) [ $status -ne 0 ] || status=77 ;;
    esac
}

# judge NAME COMMAND… : found something if the command fails.
judge() {
    name=$1
    shift
    if "$@"; then verdict "$name" ok; else verdict "$name" FOUND; fi
}

layout() {
    case $(clang-format --version 2>/dev/null) in
    *"version 14."*) judge layout clang-format --dry-run -Werror $sources ;;
    *) verdict layout "skipped, no clang-format of version 14" ;;
    esac
}

# Each room and what it may include besides the system's and libraries' headers; docs/design.md, Rooms.
arrows() {
    grep -H '^#include "' $sources | awk -F'[:"]' '
        BEGIN {
            may["common"] = "common/[a-z0-9_]*.h"
            may["common/arrow"] = "common/[a-z0-9_]*.h common/arrow/"
            may["common/cache"] = "common/[a-z0-9_]*.h common/arrow/ common/cache/ common/config/ common/models/"
            may["common/config"] = "common/[a-z0-9_]*.h common/config/ common/hub/hub.h"
            may["common/http"] = "common/[a-z0-9_]*.h common/http/"
            may["common/hub"] = "common/[a-z0-9_]*.h common/hub/ common/http/"
            may["common/tokenizer"] = "common/[a-z0-9_]*.h common/tokenizer/ common/hub/hub.h"
            may["common/models"] = "common/[a-z0-9_]*.h common/models/ common/hub/hub.h"
            may["common/data"] = "common/[a-z0-9_]*.h common/data/ common/hub/hub.h common/config/ common/tokenizer/ common/models/ common/parquet/ common/arrow/ common/tar/"
            may["common/image"] = "common/[a-z0-9_]*.h common/image/ common/models/"
            may["common/parquet"] = "common/[a-z0-9_]*.h common/parquet/"
            may["common/tar"] = "common/[a-z0-9_]*.h common/tar/"
            may["common/picture"] = "common/[a-z0-9_]*.h common/picture/"
            may["proto"] = "proto/ common/"
            may["coordinator"] = "coordinator/ common/ proto/"
            may["loader"] = "loader/ common/ proto/"
            may["loader/download"] = "loader/download/ common/"
            may["worker"] = "worker/[a-z_]*.h worker/model/ worker/comm/ worker/ops/ops.h worker/ops/dry.h common/ proto/"
            may["worker/model"] = "worker/model/ worker/ops/ops.h common/"
            may["worker/comm"] = "worker/comm/ common/"
            may["worker/ops"] = "worker/ops/ common/"
            may["worker/ops/cuda"] = "worker/ops/ worker/comm/backend.h common/"
            may["deploy/demo"] = "deploy/demo/ common/"
            may["tests"] = "."
            excepted["worker/inference.c common/image/image.h"] = 1
        }
        {
            file = $1; header = $3; room = ""
            for (r in may)
                if (index(file, r "/") == 1 && length(r) > length(room))
                    room = r
            count = split(may[room], allowed, " ")
            fits = 0
            for (i = 1; i <= count; i++)
                fits = fits || header ~ ("^" allowed[i])
            if (!fits || header !~ /\//) {
                print file ": room " room " may not include \"" header "\""
                bad = 1
            }
        }
        END { exit bad }'
}

# Where a private header lists its files and says that each calls only those below it, they do. What a file has for the others stands
# under its own line "---- FILE" in the header.
order() {
    for header in $(grep -l 'Each calls only those below it' $sources); do
        folder=${header%/*}
        awk -v folder="$folder/" '
            FILENAME ~ /\.h$/ && match($0, /^ \*   [a-z_]+\.c /) { rank[folder $2] = ++files }
            FILENAME ~ /\.h$/ && /^\/\* ---- / { section = $3 ~ /\.c$/ ? folder $3 : "" }
            FILENAME ~ /\.h$/ && section && !/^\/\*|^ \*/ {
                gsub(/(struct|enum) [a-z_]+/, "")
                while (match($0, /(core|worker|loader|socket)_[a-z_]+[(,;]/)) {
                    owner[substr($0, RSTART, RLENGTH - 1)] = section
                    $0 = substr($0, RSTART + RLENGTH)
                }
            }
            FILENAME ~ /\.c$/ && !/^\/\*|^ \*/ {
                line = $0
                while (match(line, /[a-z]+_[a-z_]+/)) {
                    word = substr(line, RSTART, RLENGTH)
                    line = substr(line, RSTART + RLENGTH)
                    if (word in owner && rank[owner[word]] < rank[FILENAME]) {
                        print FILENAME ": " word " stands above, in " owner[word]
                        bad = 1
                    }
                }
            }
            END { exit bad }' "$header" $(sed -n "s|^ \*   \([a-z_]*\.c\) .*|$folder/\1|p" "$header") || return 1
    done
}

# Rules are pure: no clock, no socket, no thread, no file.
purity() {
    pure=$(echo "$sources" | grep -E '(^|/)core(_[a-z]+)?\.[ch]$|^coordinator/ledger\.c$')
    ! grep -nE '#include <(uv|zmq|time|unistd|pthread|fcntl|sys/.*)\.?h?>|[^_a-z](rand|time|clock_gettime|fopen|getenv)\(' $pure
}

# with TOOL COMMAND… : the command, if the tool is installed.
with() {
    command -v "$1" >/dev/null || { verdict "$1" "skipped, not installed"; return; }
    judge "$1" "$@"
}

layout
judge arrows arrows
judge order order
judge purity purity
with cppcheck -q --std=c11 --language=c --enable=warning,performance,portability -I . --error-exitcode=1 --inline-suppr \
    --suppressions-list=tests/suppressions/cppcheck.txt --library=tests/suppressions/jansson.cfg $units
with shellcheck -x $(grep -lE '^#!.*[/ ](ba)?sh$' $(echo "$files" | grep -vE '\.(c|h|cc|png|jpg|webp|safetensors)$'))
# A build by gcc names warnings that clang does not have.
tidy() {
    command -v clang-tidy >/dev/null || { verdict clang-tidy "skipped, not installed"; return; }
    judge clang-tidy xargs -n 1 -P "$(nproc)" clang-tidy --quiet --extra-arg=-Wno-unknown-warning-option -p "$1" <<END
$units
END
}
[ "${1-}" != --tidy ] || tidy "$2"
exit $status
