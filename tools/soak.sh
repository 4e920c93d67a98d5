#!/bin/sh
# Runs the balancer through 10,000 simulated worlds: some minutes on two cores. Ends with the seeds that broke an invariant.
# "WORLDS=n FROM=seed tools/soak.sh" runs others, "STRICT=1" excuses nothing, "SEED=n" tells one world second by second,
# and "SEED=n SHRINK=Waits" makes that world as small as it can be while it breaks the invariant.
set -eu
cd "$(dirname "$0")/.."
export WORLDS="${WORLDS:-10000}"
exec cargo test --quiet --release -p pincer-core --test worlds worlds_keep -- --nocapture
