#!/usr/bin/env bash
# Runs the end-to-end tests with Debian's own nginx and the module under valgrind's memcheck: invalid reads and writes, uses of uninitialised
# memory (the sanitizer does not see those), and blocks that nobody points to any more when a process ends. Fails with the reports' text.
#   valgrind.sh short   requests that wait and all protocols, about a minute after the build
#   valgrind.sh         everything
#   valgrind.sh full NAME…   those files of tests/
# An end by kill -9 leaves no word about leaks, only about what was found until then. valgrind.supp names what is known and harmless.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/checked.sh

form=${1:-full}
case $form in
    short | full) ;;
    *) echo "valgrind: unknown form \"$form\", short or nothing is needed" >&2; exit 2 ;;
esac
command -v valgrind >/dev/null || { echo "valgrind: not installed, \`make setup\` installs it" >&2; exit 1; }

began=$SECONDS
open_work
cargo build --quiet --workspace --all-targets
# A copy: another build may go on while the tests run.
cp target/debug/libngx_http_pincer_module.so "$work/"
clang -O1 -Wall -fPIC -shared -o "$work/process_title.so" tools/process_title.c
# Some tests judge shares and times, or an order that a worker loses when it takes over 30 ms to answer a kick: with workers that are fifty times
# slower such a test may fail, and is let be.
misses_max=15
names=("${@:2}")
[ "$form" = short ] && names=(waiting protocols)
mapfile -t programs < <(test_programs "${names[@]}")
[ ${#programs[@]} -gt 0 ] || { echo "valgrind: the tests do not build" >&2; exit 1; }
echo "valgrind $form: built after $((SECONDS - began)) s"

options="-q --tool=memcheck --trace-children=yes --fair-sched=yes --vgdb=no --keep-debuginfo=yes --num-callers=30"
options+=" --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite"
options+=" --suppressions=$PWD/tools/valgrind.supp --log-file=$reports/memcheck.%p"
nginx=$(command -v nginx || echo /usr/sbin/nginx)
wrapper \
    "[ \"\${1:-}\" != -V ] || exec $nginx -V" \
    "export LD_PRELOAD=$work/process_title.so\${LD_PRELOAD:+:\$LD_PRELOAD}" \
    "exec valgrind $options $nginx \"\$@\""
export PINCER_MODULE=$work/libngx_http_pincer_module.so
export PINCER_TEST_SLOW=${PINCER_TEST_SLOW:-10}
began=$SECONDS
run_tests "${programs[@]}"
verdict "$misses_max" || { echo "valgrind $form: FAILED after $((SECONDS - began)) s"; exit 1; }
echo "valgrind $form: nothing found, ${#programs[@]} programs in $((SECONDS - began)) s"
