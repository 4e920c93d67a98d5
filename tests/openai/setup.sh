#!/usr/bin/env bash
# Puts OpenAI's Python client into target/openai, a virtual environment. Idempotent; a second run takes a few milliseconds.
set -euo pipefail
cd "$(dirname "$0")/../.."

# The version tested; a newer one is a deliberate change here.
wheel=openai==1.109.1

folder=target/openai
[ "$(cat "$folder/.wheel" 2>/dev/null)" = "$wheel" ] && exit 0
exec 9>"target/.openai.lock"
flock 9
[ "$(cat "$folder/.wheel" 2>/dev/null)" = "$wheel" ] && exit 0
[ -x "$folder/bin/pip" ] || python3 -m venv "$folder"
"$folder/bin/pip" install -q --disable-pip-version-check "$wheel"
echo "$wheel" > "$folder/.wheel"
