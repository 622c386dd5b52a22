#!/bin/sh
# deploy/package.sh [FOLDER] - builds the Debian packages from this repository's files into FOLDER (default: the current folder):
# blipren, and blipren-cuda where nvcc is (DEB_BUILD_PROFILES=pkg.blipren.nocuda leaves it out). It installs nothing: deploy/setup.sh,
# and debhelper and fakeroot from Debian, must be there.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
out=$(mkdir -p "${1:-.}" && cd "${1:-.}" && pwd)
command -v dh >/dev/null || {
    echo "deploy/package.sh: not installed: debhelper; deploy/setup.sh evidence installs it" >&2
    exit 1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/blipren"
cd "$root"
{ git ls-files -z 2>/dev/null || find . -path ./build -prune -o -type f -print0; } |
    tar --null --files-from=- -cf - | tar -C "$work/blipren" -xf -
mv "$work/blipren/deploy/debian" "$work/blipren/debian"
cd "$work/blipren"
version=$(sed -n "s/^  version: '\(.*\)',/\1/p" meson.build)
[ "$(dpkg-parsechangelog -S Version)" = "$version" ] || {
    echo "deploy/package.sh: deploy/debian/changelog is not of version $version, which meson.build has" >&2
    exit 1
}
[ ! -d "${CCACHE_DIR:-$HOME/.cache/ccache}" ] || export CCACHE_DIR="${CCACHE_DIR:-$HOME/.cache/ccache}"
command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ] || export DEB_BUILD_PROFILES="${DEB_BUILD_PROFILES:-} pkg.blipren.nocuda"
DEB_BUILD_OPTIONS="parallel=${DEB_BUILD_JOBS:-$(nproc)}" dpkg-buildpackage --build=full --no-sign >"$work/build.log" 2>&1 || {
    tail -n 60 "$work/build.log" >&2
    exit 1
}
mv "$work"/blipren_* "$work"/blipren-*.deb "$out" 2>/dev/null || mv "$work"/blipren_* "$out"
ls "$out"/blipren*.deb
