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

# end_to_end VERSION BINARY FILE...: these files of tests/ against another nginx.
end_to_end() {
    local version=$1 binary=$2 file files=()
    shift 2
    for file in "$@"; do files+=(--test "$file"); done
    PINCER_NGINX=$PWD/$binary PINCER_MODULE=$PWD/target/others/$version.so cargo test --quiet "${files[@]}"
}

step "format" cargo fmt --all --check
step "tidy" cargo test --quiet --test tidy
step "clippy" cargo clippy --workspace --all-targets --quiet -- -D warnings
[ "${1:-}" = lint ] && exit 0

step "build" cargo build --workspace
step "module for nginx stable" module_for stable
step "module for the nginx of Debian's sid" module_for sid
step "tests without nginx" cargo test --quiet -p pincer-core -p pincer-proto -p pincer-control -p ngx_http_pincer_module -p pincer-bench
step "loom: every order of loads and stores" tools/loom.sh
step "fuzz: 20 s for each parser of bodies" tools/fuzz.sh 20
step "fuzz: connections, with and without the module" env SEED=1 tools/fuzz-connections.sh 60
step "layout of nginx's structures, four versions" cargo test --quiet --test layout -- --nocapture
step "end to end on nginx stable" end_to_end stable .nginx/stable/objs/nginx \
    balance protocols waiting body_cache body_hash body_pieces body_ways limits priority bandwidth no_headers
step "end to end on the nginx of Debian's sid" end_to_end sid .nginx/sid/nginx limits limit_answers keys bandwidth no_headers
step "address sanitizer, short form" tools/asan.sh short
step "valgrind, short form" tools/valgrind.sh short
# Last, so that the run ends with the test runner's own lines.
echo "== end to end on Debian's nginx; the steps above took $SECONDS s"
exec cargo test --no-fail-fast
