#!/usr/bin/env bash
# All checks, the cheap ones first. "test.sh lint" stops after those that run no test.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/steps.sh

stable_module() {
    NGINX_SOURCE_DIR=$PWD/.nginx/stable NGINX_BUILD_DIR=$PWD/.nginx/stable/objs \
        cargo build --quiet -p ngx_http_pincer_module --target-dir target/stable
}

on_stable() {
    PINCER_NGINX=$PWD/.nginx/stable/objs/nginx PINCER_MODULE=$PWD/target/stable/debug/libngx_http_pincer_module.so \
        cargo test --quiet --test balance --test protocols --test waiting --test body_cache --test body_hash --test body_pieces --test body_ways --test limits --test priority --test bandwidth
}

step "format" cargo fmt --all --check
step "tidy" cargo test --quiet --test tidy
step "clippy" cargo clippy --workspace --all-targets --quiet -- -D warnings
[ "${1:-}" = lint ] && exit 0

step "build" cargo build --workspace
step "module for nginx stable" stable_module
step "tests without nginx" cargo test --quiet -p pincer-core -p pincer-proto -p pincer-control -p ngx_http_pincer_module -p pincer-bench
step "loom: every order of loads and stores" tools/loom.sh
step "fuzz: 20 s for each parser of bodies" tools/fuzz.sh 20
step "fuzz: connections, with and without the module" env SEED=1 tools/fuzz-connections.sh 60
step "end to end on nginx stable" on_stable
step "address sanitizer, short form" tools/asan.sh short
step "valgrind, short form" tools/valgrind.sh short
# Last, so that the run ends with the test runner's own lines.
began=$SECONDS
echo "== end to end on Debian's nginx"
cargo test --no-fail-fast
echo "== end to end on Debian's nginx: $((SECONDS - began)) s, all: $SECONDS s" >&2
