# Sourced by the scripts beside it: runs a step, says how long it took, stops at the first that fails.
step() {
    local name=$1 began=$SECONDS
    shift
    echo "== $name"
    "$@" || { echo "== $name FAILED after $((SECONDS - began)) s"; exit 1; }
    echo "== $name: $((SECONDS - began)) s"
}
