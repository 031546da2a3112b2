#!/usr/bin/env bash
# Sourced by finetune_glue.sh and finetune_clue.sh with MODEL, DATA and further flags, $board (glue, clue) and $common (flags
# of all its tasks) set. Goes to the repository's root; leaves $flags, trained() and run() behind, $evaluated (tasks of DATA
# without training data, with commas between) and $failed=0.
[ $# -ge 2 ] || { echo "usage: bash $0 MODEL DATA [flags of run_glue.py]" >&2; exit 2; }
model=$1 data=$(realpath -m "$2") flags=("${@:3}") failed=0
[ ! -d "$model" ] || model=$(realpath "$model")
out=$(realpath -m "${OUTPUT_DIR:-outputs/$board/$(basename "$model")}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=python
[ ! -x .venv/bin/python ] || python=.venv/bin/python
found=$("$python" - "$board" "$data" <<'PYTHON'
import sys
from data.tasks.loading import find_folder, has_training_data
from data.tasks.table import TASKS

board, data = sys.argv[1:]
found = {task.name: task for task in TASKS.values() if board in task.groups and find_folder(task, data)}
if not found:
    sys.exit(f"DATA must hold folders of {board} tasks, got {data}; name another folder")
for name, task in found.items():
    ready = has_training_data(task, data) or task.model_of in found and has_training_data(found[task.model_of], data)
    print("trained" if ready else "evaluated", name)
PYTHON
)
evaluated=$(awk '$1 == "evaluated" { print $2 }' <<<"$found" | paste -sd,)
[ -z "$evaluated" ] || echo "no training data in $data, evaluating only: ${evaluated//,/, }" >&2

trained() { # tasks -> those of them that can be trained, with commas between
    local task names=
    for task in "$@"; do
        ! grep -qx "trained $task" <<<"$found" || names+=",$task"
    done
    echo "${names#,}"
}

run() { # tasks with commas between, or none; flags of run_glue.py
    [ -n "$1" ] || return 0
    "$python" run_glue.py --tasks "$1" --model_name_or_path "$model" --data_dir "$data" --output_dir "$out" "${common[@]}" "${@:2}" || failed=1
}
