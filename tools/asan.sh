#!/usr/bin/env bash
# Runs the end-to-end tests with the address sanitizer in the module. Fails with the reports' text when it finds anything.
#   asan.sh short   pools, eight files of tests: about a minute after the build
#   asan.sh stock   all of them in Debian's own nginx. Its pools hide an overflow inside of a block, and a use after a request's end until
#                   the block goes back to the heap
#   asan.sh pools   all of them in the stable nginx, itself with the sanitizer and with NGX_DEBUG_PALLOC: each allocation of a pool
#                   stands alone on the heap, so every byte past its end and every use after its pool's end is seen
#   asan.sh         stock, then pools
#   asan.sh build   builds what "short" and "pools" run, and runs nothing
# Names of files in tests/ after a form: only those.
# Rust's own library is not instrumented; what it does to the heap through malloc and memcpy is seen. Leaks are valgrind.sh's matter.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/checked.sh
. tools/sanitizer.sh

form=${1:-}
case $form in
    "") "$0" stock; exec "$0" pools ;;
    short | stock | pools | build) ;;
    *) echo "asan: unknown form \"$form\", one of short, stock, pools, build is needed" >&2; exit 2 ;;
esac

began=$SECONDS
if [ "$form" != stock ]; then
    pools_nginx
    folder=target/asan-stable
    build_module .nginx/stable "$folder"
    nginx=$PWD/.nginx/pools/objs/nginx
else
    folder=target/asan
    build_module .nginx/debian "$folder"
    nginx=$(command -v nginx || echo /usr/sbin/nginx)
fi
[ "$form" != build ] || exit 0
names=("${@:2}")
[ "$form" = short ] && names=(balance waiting protocols live body_pieces body_ways limit_answers priority)
mapfile -t programs < <(test_programs "${names[@]}")
[ ${#programs[@]} -gt 0 ] || { echo "asan: the tests do not build" >&2; exit 1; }
echo "asan $form: built after $((SECONDS - began)) s"

open_work
asan_wrapper "$nginx"
export PINCER_MODULE=$PWD/$folder/$target/debug/libngx_http_pincer_module.so
export PINCER_TEST_SLOW=${PINCER_TEST_SLOW:-3}
began=$SECONDS
run_tests "${programs[@]}"
verdict 10 || { echo "asan $form: FAILED after $((SECONDS - began)) s"; exit 1; }
echo "asan $form: nothing found, ${#programs[@]} programs in $((SECONDS - began)) s"
