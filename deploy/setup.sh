#!/bin/sh
# deploy/setup.sh [tests | evidence | --missing] - installs the Debian packages that building BLIPren needs and that are missing here;
# with `tests` also those that tests/lint.sh and builds by clang need, with `evidence` those of tests/evidence (Slurm among them).
# Nothing else on the system is touched. Root, or a user with sudo. --missing only prints which are.
set -eu
packages="gcc g++ meson ninja-build pkg-config libzmq3-dev libprotobuf-c-dev protobuf-c-compiler libuv1-dev libpng-dev
libjpeg62-turbo-dev libwebp-dev libtiff-dev libheif-dev libyaml-dev libjansson-dev libpcre2-dev libutf8proc-dev libdnnl-dev
libsodium-dev libssl-dev libcmocka-dev libsnappy-dev zlib1g-dev libzstd-dev liblz4-dev libarchive-dev libcurl4-openssl-dev ca-certificates"
case ${1-} in
"" | --missing) ;;
tests) packages="$packages clang clang-format cppcheck libclang-rt-14-dev shellcheck" ;;
evidence) packages="$packages debootstrap slurm-wlm iproute2 libfaketime debhelper fakeroot lintian buildah docker-compose" ;;
*)
    echo "usage: deploy/setup.sh [tests | evidence | --missing]" >&2
    exit 2
    ;;
esac
missing=""
for package in $packages; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "${1-}" = --missing ]; then
    echo "$missing"
    exit 0
fi
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
        echo "deploy/setup.sh: packages are missing:$missing; run this as root, or install sudo" >&2
        exit 1
    }
    as_root=sudo
fi
echo "installing:$missing" >&2
$as_root apt-get update -q >&2
# shellcheck disable=SC2086  # the list is meant to be split
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -q -y --no-install-recommends $missing >&2
