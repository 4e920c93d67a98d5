#!/bin/sh
# Loom: the words that workers share, under every order of loads and stores that the memory model allows.
# tools/loom.sh [TEST] runs core's tests/loom_*.rs and the models inside it (loom_*), or those named TEST.
set -eu
cd "$(dirname "$0")/.."
export RUSTFLAGS="--cfg loom" CARGO_PROFILE_DEV_OPT_LEVEL=2 LOOM_MAX_PREEMPTIONS="${LOOM_MAX_PREEMPTIONS:-3}"
cargo test --quiet -p pincer-core --target-dir target/loom --lib -- "${1:-loom_}"
exec cargo test --quiet -p pincer-core --target-dir target/loom --test 'loom_*' "$@"
