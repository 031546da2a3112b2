#!/usr/bin/env bash
# Makes .venv in the repository root with requirements-dev.txt installed, everything in the version that
# requirements.lock (made by scripts/lock.sh) gives; a no-op when it is there and current.
# Sourced by quickstart.sh and test.sh, which share the environment; leaves $python pointing at its interpreter.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python="$root/.venv/bin/python"
wanted=$(cat "$root"/requirements{,-dev}.txt "$root/requirements.lock" | sha256sum | cut -d' ' -f1)

if [ "$(cat "$root/.venv/requirements.sha256" 2>/dev/null)" != "$wanted" ]; then
    command -v python3 >/dev/null || { echo "python3 (3.11 or newer) must be on PATH; install it first" >&2; exit 1; }
    echo "Setting up $root/.venv (first run, or changed requirements; a few minutes)"
    python3 -m venv "$root/.venv" || { echo "python3 -m venv failed; on Debian: apt-get install python3-venv" >&2; exit 1; }
    "$python" -m pip install --quiet --disable-pip-version-check \
        -r "$root/requirements-dev.txt" -c "$root/requirements.lock" || exit 1
    echo "$wanted" > "$root/.venv/requirements.sha256"
fi
