#!/usr/bin/env bash
# Sets up .venv where needed and runs everything CI needs: tests (style among them) and a shortened quickstart. Arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
cd "$root"
# One thread a process: the tests' models are tiny, and spinning threads would only take each other's core.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

if [ $# -gt 0 ]; then
    "$python" -m pytest "$@"
else
    cores=$(env -u OMP_NUM_THREADS nproc)  # which counts threads, where that is set
    "$python" -m pytest --numprocesses "$((cores < 8 ? cores : 8))" --dist loadfile
    QUICKSTART_STEPS="${QUICKSTART_STEPS:-20}" QUICKSTART_OUTPUT="$root/outputs/quickstart_ci" bash scripts/quickstart.sh
fi
