# Sourced by asan.sh and fuzz-connections.sh, beside checked.sh: builds what they run under the
# address sanitizer, and how nginx is started with it.
# shellcheck shell=bash disable=SC2154
. tools/nginx-modules.sh

target=x86_64-unknown-linux-gnu
runtime=$(clang -print-file-name=libclang_rt.asan-x86_64.so)
[ -f "$runtime" ] || runtime=$(find /usr/lib/llvm-*/lib/clang -name libclang_rt.asan-x86_64.so 2>/dev/null | sort | tail -1)
[ -f "${runtime:-}" ] || { echo "asan: no libclang_rt.asan-x86_64.so, \`make setup\` installs it" >&2; exit 1; }

# The stable nginx with the sanitizer and pools that hide nothing. Made anew when `make setup` has
# prepared another version.
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

# build_module HEADERS FOLDER: the module with the sanitizer for the nginx that was configured in
# HEADERS.
build_module() {
    NGINX_SOURCE_DIR=$PWD/$1 NGINX_BUILD_DIR=$PWD/$1/objs RUSTC_BOOTSTRAP=1 \
        RUSTFLAGS="-Zsanitizer=address -Zexternal-clangrt -Cforce-frame-pointers=yes" \
        cargo build --quiet --target "$target" -p ngx_http_pincer_module --target-dir "$2"
}

# asan_wrapper NGINX [REPORTS]: stands in for nginx and runs NGINX with the sanitizer.
# The runtime is the first library of all, or the sanitizer refuses; a test may preload one of its
# own. The name is kept for a binary upgrade, where nginx runs itself again by it, without its
# environment.
asan_wrapper() {
    wrapper \
        "export LD_PRELOAD=$runtime\${LD_PRELOAD:+:\$LD_PRELOAD}" \
        "export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:detect_stack_use_after_return=1:strict_string_checks=1:log_path=${2:-$reports}/asan" \
        "exec -a \"\$0\" $1 \"\$@\""
}
