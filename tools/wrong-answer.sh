#!/usr/bin/env bash
# Shows the wrong answer that a cache gives with nginx's own $request_body as its key, and the right one with Pincer's $pincer_cache_key.
# One small nginx in a temporary folder, on unix sockets: nothing listens on the network, and nothing is left behind. Takes a second.
# PINCER_NGINX, PINCER_MODULE: another nginx, and the module that was built for it. Ends with status 1 if it was not as docs/cache.md says.
set -euo pipefail
cd "$(dirname "$0")/.."
nginx=${PINCER_NGINX:-nginx}
module=${PINCER_MODULE:-}
for built in target/release target/debug; do
    if [ -z "$module" ] && [ -f "$built/libngx_http_pincer_module.so" ]; then module=$PWD/$built/libngx_http_pincer_module.so; fi
done
if [ -z "$module" ]; then
    echo "wrong-answer: building the module (a minute or two)"
    cargo build --quiet -p ngx_http_pincer_module
    module=$PWD/target/debug/libngx_http_pincer_module.so
fi

folder=$(mktemp -d "${TMPDIR:-/tmp}/pincer-wrong-answer.XXXXXX")
pid=
stop() {
    if [ -n "$pid" ]; then
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    fi
    rm -rf "$folder"
}
trap stop EXIT

cat > "$folder/nginx.conf" <<CONF
load_module $module;
daemon off;
$([ "$(id -u)" != 0 ] || echo "user root;")
pid nginx.pid;
events {}
http {
    access_log off;
    client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
    pincer_zone pincer:1m;
    proxy_cache_path cache keys_zone=kept:1m;
    proxy_cache_methods POST;
    proxy_cache_valid 200 1h;
    add_header X-Cache \$upstream_cache_status;

    # Stands for the model: it answers what it was shown.
    server { listen unix:$folder/model; location / { return 200 "this is a \$http_x_shown"; } }

    server {
        listen unix:$folder/nginx;
        location = /stock {
            proxy_pass http://unix:$folder/model;
            proxy_cache kept;
            proxy_cache_key \$request_uri\$request_body;
        }
        location = /pincer {
            proxy_pass http://unix:$folder/model;
            proxy_cache kept;
            pincer_body_hash blake3;
            proxy_cache_key \$pincer_cache_key;
        }
    }
}
CONF
"$nginx" -p "$folder" -c nginx.conf -e error.log 2> "$folder/said" &
pid=$!
for _ in $(seq 100); do
    if [ -S "$folder/nginx" ]; then break; fi
    kill -0 "$pid" 2>/dev/null || { cat "$folder/said" "$folder/error.log"; exit 1; }
    sleep 0.1
done

# Two images of 210 KB, which is more than nginx keeps of a body in memory unless it is told to.
for animal in cat dog; do printf "$animal%.0s" $(seq 70000) > "$folder/$animal.jpg"; done

# Posts an image; prints the answer and what the cache did.
ask() {
    curl --silent --show-error --unix-socket "$folder/nginx" --data-binary "@$folder/$2.jpg" --header "X-Shown: $2" --header Expect: \
        --write-out ' (%header{x-cache})' "http://localhost/$1"
}

status=0
expect() {
    answer=$(ask "$1" "$2")
    printf '    sent the %s: %-24s\n' "$2" "$answer"
    if [ "$answer" != "$3" ]; then echo "    expected: $3"; status=1; fi
}
echo "  proxy_cache_key \$request_uri\$request_body;    as many recipes say"
expect stock cat "this is a cat (MISS)"
expect stock dog "this is a cat (HIT)"
echo "    The dog got the cat's answer: the variable is empty for a body that is not in memory."
echo "  pincer_body_hash blake3; proxy_cache_key \$pincer_cache_key;"
expect pincer cat "this is a cat (MISS)"
expect pincer dog "this is a dog (MISS)"
expect pincer dog "this is a dog (HIT)"
exit $status
