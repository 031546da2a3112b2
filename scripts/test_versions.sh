#!/usr/bin/env bash
# Runs the suite with the lowest versions that requirements*.txt allow and with the newest that the package index has,
# whatever the upper bounds say, and prints one table of what differs. Run it when a new torch, transformers, datasets,
# accelerate or tokenizers comes out, and before an upper or a lower bound is changed.
#
#     bash scripts/test_versions.sh                      # the whole suite, twice
#     bash scripts/test_versions.sh -n auto tests/data   # arguments go to pytest
#
# Environment: LOWEST, NEWEST: the two environments, made where they are not there (.venv-lowest, .venv-newest; some
# gigabytes each where torch comes with CUDA; PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu gives smaller
# ones). A version that pip's own configuration caps is not the newest: PIP_CONFIG_FILE=/dev/null leaves that out.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
cd "$root"
lowest=$(realpath -ms "${LOWEST:-.venv-lowest}") newest=$(realpath -ms "${NEWEST:-.venv-newest}")
results=$root/outputs/versions
mkdir -p "$results"
rm -f "$results"/*.xml

mapfile -t lowest_versions < <(sed -nE 's/^([A-Za-z0-9_-]+)>=([^,]+),.*/\1==\2/p' requirements.txt requirements-dev.txt)
for environment in "$lowest" "$newest"; do
    [ -x "$environment/bin/python" ] || python3 -m venv "$environment"
done
echo "Setting up $lowest and $newest"
"$lowest/bin/python" -m pip install --quiet --disable-pip-version-check "${lowest_versions[@]}"
"$newest/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager "${lowest_versions[@]%%==*}"

# One thread a process, as in test.sh.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export TEST_PYTHONS="$python:$lowest/bin/python:$newest/bin/python"
status=0
echo "Folders of Transformer-XL saved under each, loaded under each"
"$python" -m pytest -q -m slow tests/test_versions.py || status=1
for name in lowest newest; do
    echo "The suite with the $name versions"
    "${!name}/bin/python" -m pytest --junitxml="$results/$name.xml" "$@" || status=1
    "${!name}/bin/python" -m pip list --disable-pip-version-check --format json > "$results/$name.json"
done
"$python" -m pip list --disable-pip-version-check --format json > "$results/lock.json"

"$python" - "$results" <<'PYTHON'
import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

folder = Path(sys.argv[1])
environments = ("lock", "lowest", "newest")
versions = {}
for environment in environments:
    for package in json.loads((folder / f"{environment}.json").read_text()):
        name = re.sub(r"[-_.]+", "-", package["name"]).lower()
        versions.setdefault(name, {})[environment] = package["version"]
print("\n| | " + " | ".join(environments) + " |\n|---|---|---|---|")
for name, found in sorted(versions.items()):
    if len(found) == 1 or len({version.split("+")[0] for version in found.values()}) > 1:
        print(f"| {name} | " + " | ".join(found.get(environment, "") for environment in environments) + " |")
outcomes, counts = {}, {}
for environment in environments[1:]:
    file = folder / f"{environment}.xml"
    if not file.is_file():
        counts[environment] = "did not run to the end"
        continue
    suite = ElementTree.parse(file).getroot().find("testsuite").attrib
    failed = int(suite["failures"]) + int(suite["errors"])
    passed = int(suite["tests"]) - failed - int(suite["skipped"])
    counts[environment] = f"{failed} failed, {passed} passed, {suite['skipped']} skipped"
    for case in ElementTree.parse(file).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            outcomes.setdefault(f"{case.get('classname')}::{case.get('name')}", {})[environment] = "failed"
for name, found in sorted(outcomes.items()):
    print(f"| {name} | | " + " | ".join(found.get(environment, "") for environment in environments[1:]) + " |")
print("| the suite | | " + " | ".join(counts[environment] for environment in environments[1:]) + " |")
PYTHON
exit "$status"
