#!/usr/bin/env bash
# Sends the same hostile bytes to a stock nginx and to one with the module, and compares
# (tests/bin/difference).
#   fuzz-connections.sh [SECONDS] [OPTIONS]        Debian's nginx, 60 s
#   fuzz-connections.sh asan [SECONDS] [OPTIONS]   the side with the module under the sanitizer
# SEED=N in the environment: that seed, a random one without. OPTIONS go to the program: --only
# NUMBER shows one input of the seed.
set -euo pipefail
cd "$(dirname "$0")/.."

asan=
[ "${1:-}" = asan ] && { asan=yes; shift; }
seconds=60
[[ "${1:-}" =~ ^[0-9]+$ ]] && { seconds=$1; shift; }
arguments=(--seconds "$seconds" ${SEED:+--seed "$SEED"} "$@")

cargo build --quiet -p pincer-e2e --bin difference
if [ -z "$asan" ]; then
    cargo build --quiet -p ngx_http_pincer_module
    exec target/debug/difference "${arguments[@]}"
fi

. tools/checked.sh
. tools/sanitizer.sh
pools_nginx
build_module .nginx/stable target/asan-stable
open_work
asan_wrapper "$PWD/.nginx/pools/objs/nginx"
export PINCER_MODULE=$PWD/target/asan-stable/$target/debug/libngx_http_pincer_module.so
export PINCER_NGINX_PLAIN=$PWD/.nginx/stable/objs/nginx PINCER_TEST_SLOW=${PINCER_TEST_SLOW:-3}
status=0
target/debug/difference --parallel 16 "${arguments[@]}" || status=$?
for report in "$reports"/*; do
    [ -s "$report" ] || continue
    echo "== report $(basename "$report")"
    head -n 120 "$report"
    status=1
done
exit "$status"
