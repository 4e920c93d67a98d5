#!/usr/bin/env bash
# All checks, the cheap ones first. "test.sh lint" stops after those that run no test.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/steps.sh

# The modules for other nginx versions are built one after the other in one folder, which spares all that does not know nginx.
module_for() {
    NGINX_SOURCE_DIR=$PWD/.nginx/$1 NGINX_BUILD_DIR=$PWD/.nginx/$1/objs \
        cargo build --quiet -p ngx_http_pincer_module --target-dir target/others &&
        cp target/others/debug/libngx_http_pincer_module.so "target/others/$1.so"
}

# end_to_end VERSION BINARY FILE...: these files of tests/ against another nginx. Nothing is built: a program of tests serves every nginx.
end_to_end() {
    local version=$1 binary=$2 file filter=none\(\)
    shift 2
    for file in "$@"; do filter+=" + binary($file)"; done
    PINCER_NGINX=$PWD/$binary PINCER_MODULE=$PWD/target/others/$version.so cargo nextest run --workspace -E "package(pincer-e2e) & ($filter)"
}

# What needs builds of its own and judges no times goes in two lanes: while one runs a program on one core, the other builds.
loom_and_sanitizer() { tools/loom.sh && tools/asan.sh build; }
parsers() { tools/fuzz.sh 20; }

step "format" cargo fmt --all --check
[ "${1:-}" != lint ] || step "tidy" cargo test --quiet --test tidy
step "clippy" cargo clippy --workspace --all-targets --quiet -- -D warnings
[ "${1:-}" = lint ] && exit 0

# One build for all that follows: --workspace with all targets, or cargo picks other features of the dependencies and builds them again.
step "build" cargo build --quiet --workspace --all-targets
step "tidy" cargo nextest run --workspace -E "binary(tidy)"
step "module for nginx stable" module_for stable
step "module for the nginx of Debian's sid" module_for sid
step "tests without nginx" cargo nextest run --workspace -E "not package(pincer-e2e)"
beside "loom: every order of loads and stores; the module with the sanitizer" loom_and_sanitizer "fuzz: 20 s for each parser of bodies" parsers
step "fuzz: connections, with and without the module" env SEED=1 tools/fuzz-connections.sh 60
step "end to end on nginx stable" end_to_end stable .nginx/stable/objs/nginx \
    balance protocols waiting body_cache body_hash body_pieces body_ways limits priority bandwidth no_headers
step "end to end on the nginx of Debian's sid" end_to_end sid .nginx/sid/nginx limits limit_answers keys bandwidth no_headers
step "address sanitizer, short form" tools/asan.sh short
step "valgrind, short form" tools/valgrind.sh short
# Last, so that the run ends with the test runner's own lines.
echo "== end to end on Debian's nginx; the steps above took $SECONDS s"
exec cargo nextest run --workspace -E "package(pincer-e2e) - binary(tidy)"
