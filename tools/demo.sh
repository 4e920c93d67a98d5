#!/usr/bin/env bash
# Builds what the demo runs and runs it. KEEP=1 leaves everything up and prints the commands to try.
set -euo pipefail
cd "$(dirname "$0")/.."
echo "demo: building (a minute or two the first time)"
cargo build --quiet --workspace
exec target/debug/demo ${KEEP:+--keep}
