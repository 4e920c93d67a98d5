# Sourced by asan.sh and valgrind.sh: runs the end-to-end tests against an nginx that a tool watches, and fails when the tool reports anything
# or when too many tests fail for its silence to mean much. Decides nothing about the tool: the caller writes its command line by `wrapper`.
# No test is repeated or skipped. What a test itself says is the matter of `make test`, at full speed.

# Programs of the end-to-end tests by their names; without names all, but for those that never run nginx.
test_programs() {
    local names=("$@") name built
    if [ ${#names[@]} = 0 ]; then
        for name in tests/*.rs; do
            name=$(basename "$name" .rs)
            [ "$name" = tidy ] || names+=("$name")
        done
    fi
    # All of the workspace, as tools/test.sh builds it: for a part of it cargo builds the module anew.
    built=$(cargo test --quiet --no-run --workspace --message-format=json |
        sed -n '/#pincer-e2e@/s/.*"executable":"\([^"]*\/deps\/[^"]*\)".*/\1/p')
    for name in "${names[@]}"; do grep -E "/deps/$name-[0-9a-f]+\$" <<< "$built"; done
}

# A folder of this run alone: $work, and in it $reports, where nginx's workers, who have dropped their rights, can write.
open_work() {
    work=$(mktemp -d "${TMPDIR:-/tmp}/pincer-check-XXXXXX")
    trap 'rm -rf "$work"' EXIT
    reports=$work/reports
    chmod 755 "$work"
    mkdir "$reports"
    chmod 1777 "$reports"
}

# wrapper LINE...: a program that stands in for nginx in the tests. Its last line must exec, so that pids stay.
wrapper() {
    { echo '#!/usr/bin/env bash'; printf '%s\n' "$@"; } > "$work/nginx"
    chmod +x "$work/nginx"
    export PINCER_NGINX=$work/nginx
}

# run_tests PROGRAM...: runs them one after the other. Sets $failed to the names of those that failed, $passed to the number of tests that passed
# and $missed to that of those that did not.
failed=() passed=0 missed=0
run_tests() {
    local program name began counts
    for program in "$@"; do
        name=$(basename "${program%-*}")
        began=$SECONDS
        echo "-- $name"
        "$program" --quiet 2>&1 | tee "$work/said" || failed+=("$name")
        echo "-- $name: $((SECONDS - began)) s"
        counts=$(sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed;.*/\1 \2/p' "$work/said")
        counts=${counts:-0 1}
        passed=$((passed + ${counts% *})) missed=$((missed + ${counts#* }))
    done
}

# verdict MISSES_MAX: prints what the tool wrote, if anything. All is well if it wrote nothing, tests did pass, and at most MISSES_MAX of a hundred
# did not: under a tool that slows everything down, tests that judge speed fail without telling anything of memory.
verdict() {
    local file found=() tests=$((passed + missed))
    for file in "$reports"/*; do
        [ -s "$file" ] && found+=("$file")
    done
    # A fault in each request is a report by each worker: the first few tell all.
    for file in "${found[@]:0:5}"; do
        echo "== report $(basename "$file")"
        head -n 120 "$file"
    done
    echo "== ${#found[@]} reports; $passed of $tests tests passed${failed[*]:+; failed: ${failed[*]}}"
    [ ${#found[@]} = 0 ] && [ "$passed" -gt 0 ] && [ $((missed * 100)) -le $(($1 * tests)) ]
}
