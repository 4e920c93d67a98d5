#!/usr/bin/env bash
# Runs the end-to-end tests with the address sanitizer in the module. Fails with the reports' text when it finds anything.
#   asan.sh short   pools, eight files of tests: about a minute after the build
#   asan.sh stock   all of them in Debian's own nginx. Its pools hide an overflow inside of a block, and a use after a request's end until
#                   the block goes back to the heap
#   asan.sh pools   all of them in the stable nginx, itself with the sanitizer and with NGX_DEBUG_PALLOC: each allocation of a pool
#                   stands alone on the heap, so every byte past its end and every use after its pool's end is seen
#   asan.sh         stock, then pools
# Names of files in tests/ after a form: only those.
# Rust's own library is not instrumented; what it does to the heap through malloc and memcpy is seen. Leaks are valgrind.sh's matter.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/checked.sh
. tools/nginx-modules.sh

form=${1:-}
case $form in
    "") "$0" stock; exec "$0" pools ;;
    short | stock | pools) ;;
    *) echo "asan: unknown form \"$form\", one of short, stock, pools is needed" >&2; exit 2 ;;
esac

target=x86_64-unknown-linux-gnu
runtime=$(clang -print-file-name=libclang_rt.asan-x86_64.so)
[ -f "$runtime" ] || runtime=$(find /usr/lib/llvm-*/lib/clang -name libclang_rt.asan-x86_64.so 2>/dev/null | sort | tail -1)
[ -f "${runtime:-}" ] || { echo "asan: no libclang_rt.asan-x86_64.so, \`make setup\` installs it" >&2; exit 1; }

# The stable nginx with the sanitizer and pools that hide nothing. Made anew when `make setup` has prepared another version.
pools_nginx() {
    local stamp
    stamp="$(cat .nginx/stable/.stamp) $runtime"
    [ "$(cat .nginx/pools/.stamp 2>/dev/null)" = "$stamp" ] && return
    echo "asan: building nginx with the sanitizer and NGX_DEBUG_PALLOC"
    rm -rf .nginx/pools
    cp -r .nginx/stable .nginx/pools
    (cd .nginx/pools && rm -rf objs .stamp Makefile &&
        ./auto/configure --with-cc=clang "${nginx_modules[@]}" --builddir=objs \
            --with-cc-opt='-g -O1 -fPIC -fno-omit-frame-pointer -fsanitize=address -DNGX_DEBUG_PALLOC=1' \
            --with-ld-opt="-fsanitize=address -shared-libasan -Wl,-rpath,$(dirname "$runtime")" &&
        make -j"$(nproc)") > .nginx/pools-build.log 2>&1 || { tail -20 .nginx/pools-build.log; exit 1; }
    echo "$stamp" > .nginx/pools/.stamp
}

# build_module HEADERS FOLDER: the module with the sanitizer for the nginx that was configured in HEADERS.
build_module() {
    NGINX_SOURCE_DIR=$PWD/$1 NGINX_BUILD_DIR=$PWD/$1/objs RUSTC_BOOTSTRAP=1 \
        RUSTFLAGS="-Zsanitizer=address -Zexternal-clangrt -Cforce-frame-pointers=yes" \
        cargo build --quiet --target "$target" -p ngx_http_pincer_module --target-dir "$2"
}

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
names=("${@:2}")
[ "$form" = short ] && names=(balance waiting protocols live body_pieces body_ways limit_answers priority)
mapfile -t programs < <(test_programs "${names[@]}")
[ ${#programs[@]} -gt 0 ] || { echo "asan: the tests do not build" >&2; exit 1; }
echo "asan $form: built after $((SECONDS - began)) s"

open_work
# The first library of all, or the sanitizer refuses; a test may preload one of its own. The name is kept for a binary upgrade, where
# nginx runs itself again by it, without its environment.
wrapper \
    "export LD_PRELOAD=$runtime\${LD_PRELOAD:+:\$LD_PRELOAD}" \
    "export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:detect_stack_use_after_return=1:strict_string_checks=1:log_path=$reports/asan" \
    "exec -a \"\$0\" $nginx \"\$@\""
export PINCER_MODULE=$PWD/$folder/$target/debug/libngx_http_pincer_module.so
export PINCER_TEST_SLOW=${PINCER_TEST_SLOW:-3}
began=$SECONDS
run_tests "${programs[@]}"
verdict 10 || { echo "asan $form: FAILED after $((SECONDS - began)) s"; exit 1; }
echo "asan $form: nothing found, ${#programs[@]} programs in $((SECONDS - began)) s"
