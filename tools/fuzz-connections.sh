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

# As tools/test.sh builds, whose files this shares.
cargo build --quiet --workspace --all-targets
if [ -z "$asan" ]; then
    exec target/debug/difference "${arguments[@]}"
fi

. tools/checked.sh
. tools/sanitizer.sh
pools_nginx
build_module .nginx/stable target/asan-stable
open_work
# The plain side runs under the sanitizer too: what it reports there is nginx's own.
mkdir -m 1777 "$work/plain"
asan_wrapper "$PWD/.nginx/pools/objs/nginx" "$work/plain"
mv "$work/nginx" "$work/nginx-plain"
asan_wrapper "$PWD/.nginx/pools/objs/nginx"
export PINCER_MODULE=$PWD/target/asan-stable/$target/debug/libngx_http_pincer_module.so
export PINCER_NGINX_PLAIN=$work/nginx-plain PINCER_TEST_SLOW=${PINCER_TEST_SLOW:-3}
status=0
target/debug/difference --parallel 16 "${arguments[@]}" || status=$?
# A worker that dies on the side with the module alone is a finding. What stock nginx does likewise is
# not: the reports of both sides stand here to tell them apart.
for report in "$work/plain"/* "$reports"/*; do
    [ -s "$report" ] || continue
    echo "== report ${report#"$work"/}"
    grep -m 1 -A 12 "^==.*ERROR" "$report" || head -n 30 "$report"
done
exit "$status"
