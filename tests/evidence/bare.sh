# shellcheck shell=bash
# tests/evidence/bare.sh - sourced by evidence that needs a Debian of its own: a bare Debian 12 made by debootstrap, with this machine's
# way to its packages. Systems are made once and kept as archives in ~/.cache/blipren.
#
#   bare_needs NAME                   ends evidence NAME with status 77 when not root or without debootstrap
#   bare_root FOLDER [PACKAGE...]     a system in FOLDER, with these packages; /proc and /dev are mounted: call it in a mount
#                                     namespace of your own
#   bare_inside FOLDER COMMAND        runs COMMAND in it, with no more environment than a login has
#   bare_libraries PROGRAM...         the packages that the programs' libraries come from

bare_needs() {
    if [ "$(id -u)" -ne 0 ] || ! command -v debootstrap >/dev/null; then
        echo "$1: skipped: needs root and debootstrap"
        exit 77
    fi
}

# Packages and names of hosts as here.
bare_network() { # ROOT
    local path
    rm -rf "$1/etc/apt"
    for path in /etc/apt /etc/ssl/certs /etc/resolv.conf /etc/hosts /usr/share/keyrings /usr/share/ca-certificates \
        /usr/local/share/ca-certificates; do
        [ -e "$path" ] || continue
        mkdir -p "$1$(dirname "$path")"
        rm -rf "${1:?}$path"
        cp -aL "$path" "$1$path"
    done
}

bare_mounts() { # ROOT
    mount --make-rprivate /
    mount -t proc proc "$1/proc"
    mount --rbind /dev "$1/dev"
}

bare_inside() { # ROOT COMMAND
    (
        root=$1 command=$2
        shift 2
        for name in http_proxy https_proxy no_proxy; do
            [ -z "${!name:-}" ] || set -- "$@" "$name=${!name}"
        done
        exec chroot "$root" env -i HOME=/root TERM=dumb DEBIAN_FRONTEND=noninteractive \
            PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@" /bin/sh -c "$command"
    )
}

bare_bootstrap() { # ROOT
    local archive mirror
    archive=${XDG_CACHE_HOME:-$HOME/.cache}/blipren/debian12-minbase.tar
    mkdir -p "$1"
    if [ -f "$archive" ]; then
        tar -C "$1" -xf "$archive"
        return
    fi
    # shellcheck disable=SC2016
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' | awk '$2 == "bookworm" { print $1; exit }')
    echo "making a bare Debian 12"
    debootstrap --variant=minbase bookworm "$1" "$mirror" >"$1.log" 2>&1 || {
        tail -n 20 "$1.log" >&2
        return 1
    }
    mkdir -p "$(dirname "$archive")"
    tar -C "$1" -cf "$archive.part" .
    mv "$archive.part" "$archive"
}

bare_root() { # ROOT [PACKAGE...]
    local root=$1 archive
    shift
    archive=${XDG_CACHE_HOME:-$HOME/.cache}/blipren/debian12-$(echo "$*" | sha256sum | cut -c1-12).tar
    if [ $# -gt 0 ] && [ -f "$archive" ]; then
        mkdir -p "$root"
        tar -C "$root" -xf "$archive"
        bare_network "$root"
        bare_mounts "$root"
        return
    fi
    bare_bootstrap "$root" || return 1
    bare_network "$root"
    bare_mounts "$root"
    [ $# -gt 0 ] || return 0
    echo "installing into it: $*"
    bare_inside "$root" "apt-get update -q && apt-get install -q -y --no-install-recommends $* && apt-get clean" \
        >"$root.log" 2>&1 || {
        tail -n 20 "$root.log" >&2
        return 1
    }
    tar -C "$root" --one-file-system -cf "$archive.part" .
    mv "$archive.part" "$archive"
}

bare_libraries() { # PROGRAM...
    local path
    ldd "$@" | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p' | sort -u | xargs -n 1 readlink -f | while read -r path; do
        dpkg -S "$path" 2>/dev/null || dpkg -S "${path#/usr}"
    done | sed 's/:.*//' | sort -u
}
