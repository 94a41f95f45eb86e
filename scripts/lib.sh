# Shared by the scripts beside it; sourced, not run.
# shellcheck shell=bash

# Cargo would look for the job server of a make that runs this, which hands it to makes alone.
unset MAKEFLAGS

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
guest=$target/guest

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    say "$*"
    exit 1
}

# Digest over files and words: what a built thing was built from.
stamp_of() {
    { for what in "$@"; do if [ -f "$what" ]; then cat "$what"; else printf '%s\n' "$what"; fi; done; } |
        sha256sum | cut -d' ' -f1
}

# fresh STAMPFILE STAMP FILE...: the files are there and were built from what STAMP says.
fresh() {
    local file=$1 stamp=$2
    shift 2
    [ -f "$file" ] && [ "$(cat "$file")" = "$stamp" ] || return 1
    local made
    for made in "$@"; do [ -s "$made" ] || return 1; done
}

# alone NAME: waits until no other run holds that name; until this script ends. Tests run side by side.
alone() {
    mkdir -p "$guest"
    exec 9>"$guest/.$1.lock"
    flock 9
}
