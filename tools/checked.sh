# Sourced by asan.sh and valgrind.sh: runs the end-to-end tests against an nginx that a tool watches, and fails when a test fails or the
# tool reports anything. Decides nothing about the tool: the caller writes its command line by `wrapper` and reads what it wrote by `verdict`.
# Each form of a check takes seconds to minutes; no test is repeated, none is skipped unless the caller says so.

# Programs of the end-to-end tests by their names; without names all, but for those that never run nginx.
test_programs() {
    local names=("$@") name arguments=()
    if [ ${#names[@]} = 0 ]; then
        for name in tests/*.rs; do
            name=$(basename "$name" .rs)
            [ "$name" = tidy ] || names+=("$name")
        done
    fi
    for name in "${names[@]}"; do arguments+=(--test "$name"); done
    # Built as for Debian's nginx, whatever the caller watches: another PINCER_NGINX at build time would rebuild the harness for it.
    env -u PINCER_NGINX cargo test --quiet --no-run -p pincer-e2e "${arguments[@]}" --message-format=json |
        sed -n 's/.*"executable":"\([^"]*\/deps\/[^"]*\)".*/\1/p'
}

# A folder for reports that nginx's workers, who have dropped their rights, can write to. Sets $reports.
open_reports() {
    reports=$(mktemp -d "${TMPDIR:-/tmp}/pincer-reports-XXXXXX")
    chmod 1777 "$reports"
    trap 'rm -rf "$reports"' EXIT
}

# wrapper FILE LINE...: a program that stands in for nginx. Its last line must exec, so that pids stay.
wrapper() {
    local file=$1
    shift
    mkdir -p "$(dirname "$file")"
    { echo '#!/usr/bin/env bash'; printf '%s\n' "$@"; } > "$file.new"
    chmod +x "$file.new"
    mv "$file.new" "$file"
}

# run_tests PROGRAM...: runs them one after the other with $test_arguments. Sets $failed to the names of those that failed.
failed=()
run_tests() {
    local program name began
    for program in "$@"; do
        name=$(basename "${program%-*}")
        began=$SECONDS
        echo "-- $name"
        if "$program" --quiet "${test_arguments[@]}"; then
            echo "-- $name: $((SECONDS - began)) s"
        else
            failed+=("$name")
            echo "-- $name FAILED after $((SECONDS - began)) s"
        fi
    done
}

# Prints what the tool wrote, if anything, and says whether all is well.
verdict() {
    local file found=()
    for file in "$reports"/*; do
        [ -s "$file" ] && found+=("$file")
    done
    if [ ${#found[@]} -gt 0 ]; then
        # A fault in each request is a report by each worker: the first few tell all.
        for file in "${found[@]:0:5}"; do
            echo "== report $(basename "$file")"
            head -n 120 "$file"
        done
        echo "== ${#found[@]} reports, the first $((${#found[@]} < 5 ? ${#found[@]} : 5)) are above"
    fi
    [ ${#failed[@]} = 0 ] || echo "== failed: ${failed[*]}"
    [ ${#found[@]} = 0 ] && [ ${#failed[@]} = 0 ]
}
