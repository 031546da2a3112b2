#!/usr/bin/env bash
# Sourced with a board (glue, clue) and a data folder: which of its tasks are there. Goes to the repository's root and leaves
# $python, $evaluated (tasks without training data, with commas between), $failed=0 and trained() behind.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=python
[ ! -x .venv/bin/python ] || python=.venv/bin/python
failed=0
found=$("$python" - "$1" "$2" <<'PYTHON'
import sys
from data.task_sources import find_folder, has_training_data
from data.tasks import TASKS, TaskError

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
[ -z "$evaluated" ] || echo "no training data in $2, evaluating only: ${evaluated//,/, }" >&2

trained() { # tasks -> those of them that can be trained, with commas between
    local task names=
    for task in "$@"; do
        ! grep -qx "trained $task" <<<"$found" || names+=",$task"
    done
    echo "${names#,}"
}
