#!/usr/bin/env bash
# Installs what Pincer's build and tests need on Debian 12, and prepares the headers of four versions
# of nginx below .nginx/. Without an argument:
#   .nginx/debian   Debian's own nginx (package nginx-dev), the first target
#   .nginx/stable   nginx's stable release from the crate nginx-src, built with its binary at .nginx/stable/objs/nginx
#   .nginx/trixie   Debian 13's, unpacked and not installed, with its binary at .nginx/trixie/nginx
#   .nginx/sid      that of Debian's development branch, likewise
# "setup.sh build" installs and prepares only what the module for Debian's nginx is built with:
# .nginx/debian.
# Idempotent; a second run takes well under a second.
set -euo pipefail
cd "$(dirname "$0")/.."

case ${1:-all} in
    all | build) what=${1:-all} ;;
    *) echo "usage: tools/setup.sh [all|build]" >&2; exit 2 ;;
esac

rust=$(rustc --version 2>/dev/null | cut -d ' ' -f 2 || true)
printf '1.90\n%s\n' "${rust:-0}" | sort -VC && command -v cargo >/dev/null || {
    echo "setup: Rust is ${rust:-missing}, 1.90 or newer is needed: install it with rustup (https://rustup.rs), Debian 12's own is too old" >&2
    exit 1
}

packages=(nginx nginx-dev libclang-dev gcc libc6-dev make libpcre2-dev libssl-dev zlib1g-dev curl)
[ "$what" = build ] || packages+=(clang valgrind libfaketime gdb libclang-rt-14-dev iproute2 b3sum xxhash)
missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "setup: installing ${missing[*]}"
    as_root=(env DEBIAN_FRONTEND=noninteractive)
    [ "$(id -u)" = 0 ] || as_root=(sudo "${as_root[@]}")
    "${as_root[@]}" apt-get update -qq
    # nginx's service must not start: the tests run their own, and operators configure it first.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        trap '"${as_root[@]}" rm -f "$policy"' EXIT
        "${as_root[@]}" chmod +x "$policy"
    fi
    "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

if [ "$what" != build ] && ! cargo nextest --version >/dev/null 2>&1; then
    echo "setup: building cargo-nextest, which runs the tests"
    cargo install --quiet --locked cargo-nextest
fi

# A stamp names what a prepared tree was made from, so that an upgrade of the package prepares it anew.
prepared() { [ -f "$1/.stamp" ] && [ "$(cat "$1/.stamp")" = "$2" ]; }

debian_version=$(dpkg-query -W -f='${Version}' nginx-dev)
if ! prepared .nginx/debian "$debian_version"; then
    echo "setup: configuring the headers of Debian's nginx $debian_version"
    rm -rf .nginx/debian
    mkdir -p .nginx
    cp -rL /usr/share/nginx/src .nginx/debian
    # conf_flags is a bash array; under plain sh it would be lost and the module's signature with it.
    (cd .nginx/debian && . ./conf_flags && ./configure "${NGX_CONF_FLAGS[@]}" --builddir=objs) > .nginx/debian-configure.log 2>&1 ||
        { tail -20 .nginx/debian-configure.log; exit 1; }
    echo "$debian_version" > .nginx/debian/.stamp
fi

[ "$what" = build ] && exit 0

. tools/nginx-modules.sh
stable_version=$(sed -n 's/^nginx-src = "=\(.*\)"$/\1/p' tools/nginx-src/Cargo.toml)
stable_stamp="$stable_version ${nginx_modules[*]}"
if ! prepared .nginx/stable "$stable_stamp"; then
    echo "setup: building nginx $stable_version from the crate nginx-src"
    rm -rf .nginx/stable
    cargo fetch --quiet --manifest-path tools/nginx-src/Cargo.toml
    manifest=$(cargo metadata --quiet --format-version 1 --offline --manifest-path tools/nginx-src/Cargo.toml |
        tr ',' '\n' | sed -n 's/.*"manifest_path":"\([^"]*nginx-src-1[^"]*\)".*/\1/p' | head -1)
    cp -r "$(dirname "$manifest")/nginx" .nginx/stable
    (cd .nginx/stable && ./auto/configure "${nginx_modules[@]}" \
        --with-cc-opt='-g -O2 -fPIC' --builddir=objs && make -j"$(nproc)") > .nginx/stable-build.log 2>&1 ||
        { tail -20 .nginx/stable-build.log; exit 1; }
    echo "$stable_stamp" > .nginx/stable/.stamp
fi

for suite in trixie sid; do tools/debian-suite.sh "$suite"; done
