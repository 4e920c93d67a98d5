#!/usr/bin/env bash
# Measures Pincer beside other proxies; arguments are scenarios of bench/README.md, none = all but the 20-minute one.
set -euo pipefail
cd "$(dirname "$0")/.."
bash bench/setup.sh
echo "bench: building (two minutes the first time)"
cargo build --quiet --release -p ngx_http_pincer_module -p pincer-bench
cargo build --quiet --release -p pincer-core --examples
exec target/release/pincer-bench "$@"
