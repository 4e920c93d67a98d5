#!/usr/bin/env bash
# debian-suite.sh SUITE: prepares the nginx of another release of Debian (trixie, sid) below .nginx/SUITE, without installing anything:
#   src, objs   its headers, configured as Debian configures it, to build the module for
#   nginx       runs its binary with that release's own C library, whatever the machine has
# Packages come from where apt has this release's from. What apt keeps of the suite stays below .nginx/SUITE too. Idempotent.
set -euo pipefail
cd "$(dirname "$0")/.."

suite=$1
folder=$PWD/.nginx/$suite
packages=(nginx nginx-dev libc6 libcrypt1 libpcre2-8-0 libssl3t64 zlib1g libgcc-s1)

[ -e "$folder/.stamp" ] && exit 0
echo "setup: unpacking nginx of Debian's $suite"
rm -rf "$folder"
mkdir -p "$folder"/apt/{state/lists/partial,cache/archives/partial,packages} "$folder/root"

. /etc/os-release
from=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' "Codename: $VERSION_CODENAME" | head -n 1)
[ -n "$from" ] || { echo "setup: apt knows no source of Debian's $VERSION_CODENAME: run apt-get update" >&2; exit 1; }
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $from $suite main" > "$folder/apt/sources.list"
touch "$folder/apt/state/status"
of_suite() {
    local program=$1
    shift
    "$program" -qq -o Dir::Etc::sourcelist="$folder/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::State="$folder/apt/state" \
        -o Dir::State::status="$folder/apt/state/status" -o Dir::Cache="$folder/apt/cache" -o APT::Sandbox::User=root \
        -o Acquire::Languages=none "$@"
}
of_suite apt-get update
(cd "$folder/apt/packages" && of_suite apt-get download "${packages[@]}")
for package in "$folder"/apt/packages/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
version=$(dpkg-deb -f "$folder"/apt/packages/nginx-dev_*.deb Version)
rm -rf "$folder/apt"

cp -rL "$folder"/root/usr/share/nginx/src/. "$folder"
# conf_flags is a bash array; under plain sh it would be lost and the module's signature with it.
(cd "$folder" && . ./conf_flags && ./configure "${NGX_CONF_FLAGS[@]}" --builddir=objs) > "$folder/configure.log" 2>&1 ||
    { tail -20 "$folder/configure.log"; exit 1; }

cat > "$folder/nginx" <<'END'
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")/root
libraries=$(echo "$root"/usr/lib/*-linux-gnu)
exec "$libraries"/ld-linux-*.so.* --library-path "$libraries" "$root/usr/sbin/nginx" "$@"
END
chmod +x "$folder/nginx"
"$folder/nginx" -V 2>&1 | sed -n 's|^nginx version: nginx/|setup: it is nginx |p'
echo "$version" > "$folder/.stamp"
