# Sourced by the scripts beside it: runs a step, says how long it took, stops at the first that fails.
step() {
    local name=$1 began=$SECONDS
    shift
    echo "== $name"
    "$@" || { echo "== $name FAILED after $((SECONDS - began)) s"; exit 1; }
    echo "== $name: $((SECONDS - began)) s"
}

# beside NAME FUNCTION NAME FUNCTION: two steps at once. Prints what each said when both have ended, and stops if one failed.
beside() {
    local said began=$SECONDS first=0 second=0 lane
    said=$(mktemp -d)
    echo "== $1 | $3"
    ( "$2" ) > "$said/1" 2>&1 &
    lane=$!
    ( "$4" ) > "$said/2" 2>&1 || second=$?
    echo "== $3: $((SECONDS - began)) s"
    wait "$lane" || first=$?
    echo "== $1: $((SECONDS - began)) s"
    cat "$said/1" "$said/2"
    rm -r "$said"
    [ "$first" = 0 ] || { echo "== $1 FAILED"; exit 1; }
    [ "$second" = 0 ] || { echo "== $3 FAILED"; exit 1; }
}
