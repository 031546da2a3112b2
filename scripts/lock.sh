#!/usr/bin/env bash
# Writes requirements.lock: the exact versions that requirements-dev.txt gives today, from the package index alone.
#
#     bash scripts/lock.sh torch==2.13.0     # arguments are pins of your choice within the ranges
#
# Run it on Linux x86_64, so that the packages of CUDA, which torch asks for there, are pinned too. Nothing is installed.
# pip's configuration and folders of wheels are left out; PIP_INDEX_URL chooses another index.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export PIP_CONFIG_FILE=/dev/null
unset PIP_FIND_LINKS PIP_EXTRA_INDEX_URL PIP_CONSTRAINT

python3 -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install --quiet --upgrade pip
"$scratch/venv/bin/python" -m pip install --quiet --dry-run --ignore-installed --report "$scratch/report.json" \
    -r "$root/requirements-dev.txt" "$@"
"$scratch/venv/bin/python" - "$scratch/report.json" "bash scripts/lock.sh${*:+ $*}" > "$scratch/lock" <<'PYTHON'
import json
import re
import sys

found = {}
for package in json.load(open(sys.argv[1], encoding="utf-8"))["install"]:
    name = re.sub(r"[-_.]+", "-", package["metadata"]["name"]).lower()
    found[name] = package["metadata"]["version"]
if "+" in found["torch"] or "triton" not in found:
    sys.exit(f"torch must be the index's own build for CUDA, got {found['torch']}; run this on Linux x86_64")
print(f"# Exact versions of all that scripts/setup_env.sh installs. Made by: {sys.argv[2]}")
print("# As constraints: pip install -r requirements-dev.txt -c requirements.lock (or -r requirements.txt).")
for_cuda = {name for name in found if re.match(r"(nvidia|cuda)-|triton$", name)}
for name in sorted(found.keys() - for_cuda):
    print(f"{name}=={found[name]}")
print("# What torch brings along for CUDA, where it does.")
for name in sorted(for_cuda):
    print(f'{name}=={found[name]} ; platform_system == "Linux"')
PYTHON
mv "$scratch/lock" "$root/requirements.lock"
