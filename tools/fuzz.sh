#!/usr/bin/env bash
# Fuzzes the readers of request bodies: every target of fuzz/ for SECONDS (20), or only those that are named. "tools/fuzz.sh 60 json".
# What it finds is in fuzz/artifacts; put it into fuzz/corpus, which pincer-core's tests run. New inputs of a run are not kept.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-20}
shift || true
[ $# -gt 0 ] || set -- json multipart split

# the sanitizer's and the coverage's flags are unstable ones, which the stable compiler takes so
export RUSTC_BOOTSTRAP=1
command -v cargo-fuzz >/dev/null || cargo install --quiet --locked cargo-fuzz

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for target in "$@"; do
    mkdir "$scratch/$target"
    cargo fuzz run "$target" "$scratch/$target" "fuzz/corpus/$target" -- -max_total_time="$seconds" -max_len=4096 -print_final_stats=1 2>&1 |
        tee "$scratch/log" | grep -E "ERROR|panicked|SUMMARY|number_of_executed_units|stat::" || true
    grep -q "stat::number_of_executed_units" "$scratch/log" || { tail -n 40 "$scratch/log"; exit 1; }
    if grep -qE "panicked at|ERROR: " "$scratch/log"; then
        echo "fuzz $target: found something, see fuzz/artifacts/$target" >&2
        exit 1
    fi
done
